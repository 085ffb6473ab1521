-- Refuses a REST request whose query or body does not fit the contract, and says which field is wrong. Stands after
-- token, rate limit and the limit of a body, before the transcoder.

-- The first field of the query that is wrong, and what is; nil if none is. `fields` has the kinds of the message's.
local function query_fault(query, fields, in_path, has_body)
  local seen = {}
  for raw in query:gmatch("[^&]+") do
    local shown = raw:match("^[^=]*")
    local name = shown:gsub("%+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    if in_path[name] then -- the transcoder would let the query's value win over the path's
      return name, "is named by the path, and cannot be in the query too"
    elseif name == "" then
      return "request", "has a value without a name in its query"
    elseif not fields[name] then
      return shown, "this call has no such field"
    elseif has_body then
      return name, "belongs into the body"
    elseif seen[name] and fields[name]:sub(1, 2) ~= "[]" then
      return name, "is there twice"
    end
    seen[name] = true
  end
end

local function refuse(handle, field, wrong)
  handle:streamInfo():dynamicMetadata():set("openmcp", "fault", { field = field, wrong = wrong })
  handle:respond({ [":status"] = "400" }, "")
end

function envoy_on_request(handle)
  local route = handle:metadata()
  local message = route:get("message")
  if not message then
    return
  end
  local in_path, has_body = route:get("in_path"), route:get("has_body")
  local query = handle:headers():get(":path"):match("%?(.*)$")
  if query then
    local field, wrong = query_fault(query, MESSAGES[message], in_path, has_body)
    if field then
      return refuse(handle, field, wrong)
    end
  end
  if has_body then
    local body = handle:body(true)
    local field, wrong
    if body:length() > 0 then -- none is as good as {}
      field, wrong = fault(body:getBytes(0, body:length()), message, in_path)
    end
    if field then
      return refuse(handle, field, wrong)
    end
  end
end
