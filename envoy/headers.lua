-- What of a request's headers goes on to the server: those that it has a use for, in the form that it expects.
--
-- gRPC parses more headers than its documents name, and one that it can't parse spoils the header table of its whole
-- connection, on which all other callers' requests travel. So this lists what may pass, not what may not.
--
-- HEADER_BYTES and HEADER_COUNT are put before this source when the configuration is rendered: above a limit of its
-- own, Envoy resets an HTTP/2 stream without a word.

local PASS = {
  ["authorization"] = true,
  ["content-length"] = true,
  ["content-type"] = true,
  ["last-event-id"] = true,
  ["traceparent"] = true,
  ["x-forwarded-proto"] = true, -- Envoy's own; it finds no route without one
  ["x-request-id"] = true,
}
-- From a gRPC caller only: a deadline or a compression would mean something to the server whoever sends it.
local PASS_GRPC = { ["grpc-encoding"] = true, ["grpc-timeout"] = true }
-- What is compressed would be counted by the bytes that it is compressed to, and cost what it is: a thousand times that.
local ENCODINGS = { identity = true }

-- `reply` names an entry of REPLIES, of which the first filter, which makes the answer, knows more than the status.
local function refuse(handle, status, reply)
  handle:streamInfo():dynamicMetadata():set("openmcp", "reply", reply)
  handle:respond({ [":status"] = status }, "")
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local is_grpc = (headers:get("content-type") or ""):find("^application/grpc")
  local bytes, count, malformed = 0, 0, false
  local seen, dropped = {}, {}
  for name, value in pairs(headers) do
    bytes, count = bytes + #name + #value, count + 1
    malformed = malformed or value:find("[^\t\32-\126]") ~= nil
    if name:byte() == 58 or PASS[name] or is_grpc and PASS_GRPC[name] then
      malformed = malformed or seen[name] ~= nil
      seen[name] = value
    else
      dropped[#dropped + 1] = name
    end
  end

  if bytes > HEADER_BYTES or count > HEADER_COUNT then
    return refuse(handle, "431", "HEADERS_TOO_LARGE")
  elseif malformed or (seen[":authority"] or ""):find(",", 1, true) then -- which Envoy makes of several hosts
    return refuse(handle, "400", "MALFORMED_REQUEST")
  end
  for _, name in ipairs(dropped) do
    headers:remove(name)
  end

  if is_grpc then
    local timeout, encoding = seen["grpc-timeout"], seen["grpc-encoding"]
    if timeout and not (#timeout <= 9 and timeout:find("^%d+[HMSmun]$")) then
      return refuse(handle, "400", "BAD_TIMEOUT")
    elseif encoding and not ENCODINGS[encoding] then
      return refuse(handle, "400", "BAD_ENCODING")
    end
    headers:replace("te", "trailers") -- a caller that leaves it out can still be served
  end
  local scheme, token = (seen["authorization"] or ""):match("^(%a+) +(.*)$")
  if scheme and scheme:lower() == "bearer" then -- a scheme's case means nothing, but jwt_authn's prefix has one
    headers:replace("authorization", "Bearer " .. token)
  end
end
