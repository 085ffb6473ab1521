// Makes the replica set and its two users, for mongosh. Runs at every start and does what is not yet done.
//
// It has mongo-1's network, so mongod sees it come from localhost: while there is no user at all, that lets it start the
// replica set and make the first one (MongoDB's "localhost exception"). From then on it signs in like everybody.
const fs = require("fs");

const secret = (name) => fs.readFileSync(`/run/secrets/${name}`, "utf8").trim();
const admin = db.getSiblingDB("admin");

function signIn() {
  try {
    return admin.auth("admin", secret("mongodb-admin-password")).ok === 1;
  } catch (error) {
    return false;
  }
}

function awaitPrimary() {
  for (let tries = 0; tries < 300; tries++) {
    if (db.hello().isWritablePrimary) return;
    sleep(200);
  }
  throw new Error("mongo-1 did not become primary");
}

if (!signIn()) {
  try {
    // mongo-1 is preferred as primary, so that this script finds it there.
    const members = [1, 2, 3].map((n) => ({ _id: n - 1, host: `mongo-${n}:27017`, priority: n === 1 ? 2 : 1 }));
    rs.initiate({ _id: "openmcp", members });
  } catch (error) {
    if (error.codeName !== "AlreadyInitialized") throw error;
  }
  awaitPrimary();
  admin.createUser({ user: "admin", pwd: secret("mongodb-admin-password"), roles: ["root"] });
  if (!signIn()) throw new Error("cannot sign in as admin");
}

awaitPrimary();
const roles = [{ role: "readWrite", db: "openmcp" }];
const pwd = secret("mongodb-password");
if (admin.getUser("openmcp")) {
  admin.updateUser("openmcp", { pwd, roles });
} else {
  admin.createUser({ user: "openmcp", pwd, roles });
}
print("replica set and users are there");
