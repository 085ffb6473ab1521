-- Gives REST responses the contract's shape, and Envoy's own replies the contract's errors.
--
-- The first filter in the list, so the last to see a response: the transcoder has already made it JSON.
-- HSTS, REPLIES (the table of Envoy's own replies), BYTES (a second, by plan and whose they are), WAITS (for these, in
-- seconds) and text.lua are put before this source when the configuration is rendered.

-- Set by local_reply_config on replies of Envoy's own: "<HTTP status> <HTTP method> <response code details>". There is no
-- method in a request that could not even be parsed.
local LOCAL_REPLY = "x-openmcp-local-reply"
local MARK = "^(%d+) (%S*) ?(.*)$"
-- Set by the server on an event stream that will never have another event.
local END_OF_STREAM = "x-openmcp-end-of-stream"

-- What gRPC and Envoy need, and a REST client does not.
local NOT_FOR_REST = {
  "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding", "grpc-encoding", "trailer",
  "server", "x-envoy-upstream-service-time", "x-envoy-upstream-healthchecked-cluster",
}

local BY_DETAILS = {
  ["jwt_authn_access_denied"] = "TOKEN_INVALID",
  ["jwt_authn_access_denied{Jwt_is_missing}"] = "TOKEN_MISSING",
  ["jwt_authn_access_denied{Jwt_is_expired}"] = "TOKEN_EXPIRED",
  -- No fault of the token's: no server gave us the keys yet.
  ["jwt_authn_access_denied{Jwks_remote_fetch_is_failed}"] = "UPSTREAM_UNAVAILABLE",
}

local BY_HTTP_STATUS = {
  ["400"] = "MALFORMED_REQUEST",
  ["402"] = "BODIES", -- the limit of bytes has a status of its own
  ["404"] = "ROUTE_NOT_FOUND",
  ["405"] = "METHOD_NOT_ALLOWED",
  ["408"] = "REQUEST_TIMEOUT",
  ["413"] = "REQUEST_TOO_LARGE",
  ["415"] = "UNSUPPORTED_MEDIA_TYPE",
  ["429"] = "RATE_LIMITED",
  ["431"] = "HEADERS_TOO_LARGE",
  ["501"] = "MALFORMED_REQUEST", -- a transfer-encoding that Envoy does not know
  ["503"] = "UPSTREAM_UNAVAILABLE",
  ["504"] = "DEADLINE_EXCEEDED",
}

-- Refusals, by the first word of their details, whose words are of one field.
local NAMES_FIELD = {
  early_grpc_json_transcode_failure = true, -- path and query
  grpc_json_transcode_failure = true, -- body
  lua_response = true, -- both, by request.lua
}

-- A gRPC status that came without our details was made by gRPC itself, whose words are not for clients.
local BY_GRPC_STATUS = {
  ["1"] = "UPSTREAM_UNAVAILABLE", -- the server has too many calls that it has not begun
  ["2"] = "INTERNAL",
  ["4"] = "DEADLINE_EXCEEDED",
  ["8"] = "REQUEST_TOO_LARGE", -- a message over the limit that gRPC was given
  ["12"] = "METHOD_NOT_FOUND",
  ["13"] = "INTERNAL",
  ["14"] = "UPSTREAM_UNAVAILABLE",
}

-- Those of gRPC's words that tell the caller's fault from the server's.
local BY_GRPC_MESSAGE = {
  ["Compression bit set but no encoding configured"] = "BAD_COMPRESSION",
}

-- Which of Envoy's own replies fits what Envoy says of itself.
local function local_reply(status, method, details)
  if method == "CONNECT" and details == "upgrade_failed" then
    return "ROUTE_NOT_FOUND" -- no tunnel leads anywhere
  end
  local name = BY_DETAILS[details] or BY_DETAILS[details:match("^[%w_]*")] or BY_HTTP_STATUS[status]
  if not name then
    name = status:sub(1, 1) == "4" and "MALFORMED_REQUEST" or "INTERNAL"
  end
  return name
end

-- The position of the quote that ends the JSON string whose first quote is at `from`. Looks for quotes, not for
-- backslashes: a text may have a million of these.
local function string_end(json, from)
  local at = from + 1
  while true do
    local found = json:find('"', at, true)
    local before = found and found - 1
    while before and json:byte(before) == 92 do -- a backslash: of an even number of them, none belongs to the quote
      before = before - 1
    end
    if not found or (found - before) % 2 == 1 then
      return found
    end
    at = found + 1
  end
end

local function escape(text)
  if not is_utf8(text) then
    text = text:gsub("[\128-\255]", "?")
  end
  return (text:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end))
end

-- {"code":5,"message":"…","details":[<Error>,…]} as {"error":{"code":"TASK_NOT_FOUND","message":"…","details":[…]}}, or nil
-- if it is not that. Our Error is always the first detail; its message is the status's own.
local function server_error(json)
  local _, before = json:find('^{"code":%d+,"message":')
  local last = before and string_end(json, before + 1)
  if not last then
    return nil
  end
  local message = json:sub(before + 1, last)
  local prefix = ',"details":[{"@type":"type.googleapis.com/openmcp.chain.v1.Error","code":"'
  if json:sub(last + 1, last + #prefix) ~= prefix then
    return nil
  end
  local code, at = json:match('^([A-Z0-9_]+)","message":()', last + 1 + #prefix)
  local detail = code and string_end(json, at)
  if not detail or json:sub(detail + 1, detail + 1) ~= "}" then
    return nil
  end
  local rest = json:sub(detail + 2):gsub("^,", ""):gsub("%]}$", "")
  local details = rest ~= "" and ',"details":[' .. rest .. "]" or ""
  return code, '{"error":{"code":"' .. code .. '","message":' .. message .. details .. "}}"
end

-- The refusal of a body, path or query that does not fit the contract: as request.lua has found it, or by the words of
-- the transcoder, which begin with `field: what is wrong`, or have no field where it knows none.
local function refused_field(words, found)
  local field, wrong
  if found then
    field, wrong = found.field, found.wrong
  else
    local said = words:match("[^\r\n]*"):gsub("^INVALID_ARGUMENT:", ""):gsub("^[%s:]+", ""):sub(1, 300)
    said = said:gsub(" for type type%.googleapis%.com/.*", ""):gsub("invalid value Field '[^']*', ", "")
    said = said:gsub("TYPE_(%u+)", string.lower)
    field, wrong = said:match('^([%w_][%w_%.%[%]"]*): (.+)$')
    field, wrong = field or "request", wrong or said
  end
  local known = { FIELD = escape(field), DESCRIPTION = escape(wrong) }
  return (REPLIES.INVALID_ARGUMENT.body:gsub("%f[%u]%u+%f[%U]", known))
end

-- The JSON with `null` for each `error` and `result` that is not set in the TaskDetails at this depth: 1 for a task, 3 for
-- a list of tasks. `error` is always printed, and after `result`. Names in what a task holds are deeper.
local function show_nulls(json, depth)
  local parts, from, at, level, result = {}, 1, 1, 0, false
  while true do
    at = json:find('["{}%[%]]', at)
    if not at then
      parts[#parts + 1] = json:sub(from)
      return table.concat(parts)
    end
    local c = json:byte(at)
    if c == 34 then
      local last = string_end(json, at)
      if level == depth and json:byte(last + 1) == 58 then
        local name = json:sub(at + 1, last - 1)
        if name == "result" then
          result = true
        elseif name == "error" then
          parts[#parts + 1] = json:sub(from, at - 1)
          parts[#parts + 1] = result and "" or '"result":null,'
          local unset = json:sub(last + 2, last + 3) == '""'
          parts[#parts + 1] = unset and '"error":null' or '"error":'
          last = last + (unset and 3 or 1)
          from = last + 1
        end
      end
      at = last
    elseif c == 123 or c == 91 then
      level, result = level + 1, level ~= depth - 1 and result
    else
      level = level - 1
    end
    at = at + 1
  end
end

local function set_body(handle, text)
  local length = handle:body(true):setBytes(text)
  local headers = handle:headers()
  headers:replace("content-length", tostring(length))
end

local function add_headers(headers, reply)
  if reply.retry_after and not headers:get("retry-after") then
    headers:replace("retry-after", reply.retry_after)
  end
end

-- What every 401 has to carry (RFC 9110, 11.6.1); `invalid` if there was a token (RFC 6750, 3.1).
local function challenge(headers, invalid)
  headers:replace("www-authenticate", 'Bearer realm="openmcp-chain"' .. (invalid and ', error="invalid_token"' or ""))
end

local function respond(handle, http, body)
  set_body(handle, body)
  local headers = handle:headers()
  headers:replace(":status", http)
  headers:replace("content-type", "application/json")
end

-- Replies of which there are several: which one is the route's to say, under this name.
local BY_ROUTE = {
  REQUEST_TOO_LARGE = "too_large", -- by which field, and what the limit was
  RATE_LIMITED = "rate_limited", -- whose rate it was; a workspace's if the route doesn't say
}

-- Two limits may each have told what is left: of the bytes, which is told where these are too many, and of the calls.
local LIMITS = { "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset" }

local function tell_one_limit(headers, of_bytes)
  local count = headers:getNumValues(LIMITS[1])
  if count < 2 then
    return
  end
  for _, name in ipairs(LIMITS) do
    local value = headers:getAtIndex(name, of_bytes and 0 or count - 1)
    headers:remove(name)
    headers:add(name, value)
  end
end

-- The reply to too many bytes: when so many are there, if nothing else is sent meanwhile.
local function bytes_reply(handle)
  local kept = handle:streamInfo():dynamicMetadata()
  local token = (kept:get("envoy.filters.http.jwt_authn") or {}).payload or {}
  local rate = (BYTES[token.plan] or BYTES[""])[handle:metadata():get("whose") or "callers"]
  local left = tonumber(handle:headers():get("x-ratelimit-remaining") or "") or 0
  local wait = (kept:get("openmcp").length - left) / rate
  for _, seconds in ipairs(WAITS) do
    if wait <= seconds then
      return REPLIES["BODIES " .. seconds]
    end
  end
  return REPLIES["BODIES " .. WAITS[#WAITS]]
end

local function named_reply(handle, name)
  if name == "BODIES" then
    tell_one_limit(handle:headers(), true)
    return bytes_reply(handle)
  end
  return REPLIES[BY_ROUTE[name] and handle:metadata():get(BY_ROUTE[name]) or name]
end

-- An error that Envoy made: `named`, if a filter of ours or the route says which reply fits. `fault` is what
-- request.lua has found.
local function rest_refusal(handle, mark, named, fault)
  local status, method, details = mark:match(MARK)
  local headers = handle:headers()
  local reply = named_reply(handle, named or local_reply(status, method, details))
  add_headers(headers, reply)
  local told = headers:get("www-authenticate")
  if told then -- Envoy would name the URL that was asked for
    challenge(headers, told:find("invalid_token", 1, true))
  end
  if method == "HEAD" then -- must not have a body
    headers:replace(":status", reply.http)
    headers:replace("content-type", "application/json")
    headers:remove("content-length")
  elseif not named and NAMES_FIELD[details:match("^[%w_]*")] and status == "400" then
    local body = handle:body(true)
    respond(handle, status, refused_field(body:getBytes(0, body:length()), fault))
  else
    respond(handle, reply.http, reply.body)
  end
end

-- An error that the server made.
local function rest_error(handle, status)
  local body = handle:body(true)
  local text = body:getBytes(0, body:length())
  local code, json = server_error(text)
  if code then
    local known = named_reply(handle, code)
    respond(handle, known and known.http or status, json)
    if status == "401" then
      challenge(handle:headers(), code == "TOKEN_INVALID" or code == "TOKEN_EXPIRED")
    end
  else
    local reply = named_reply(handle, BY_GRPC_STATUS[text:match('^{"code":(%d+),') or ""] or "INTERNAL")
    respond(handle, reply.http, reply.body)
    add_headers(handle:headers(), reply)
  end
end

-- An error in gRPC's own form: one that Envoy made, or, without a mark, one that came bare from the server.
local function grpc_error(handle, mark, named)
  local headers, name = handle:headers(), named
  if mark then
    name = name or local_reply(mark:match(MARK))
    name = name == "UNSUPPORTED_MEDIA_TYPE" and "BAD_GRPC_TYPE" or name
  elseif not headers:get("grpc-status-details-bin") then
    name = BY_GRPC_MESSAGE[headers:get("grpc-message")] or BY_GRPC_STATUS[headers:get("grpc-status")]
  end
  local reply = name and named_reply(handle, name)
  if not reply then
    return
  end
  headers:replace(":status", "200")
  headers:replace("grpc-status", reply.grpc_status)
  headers:replace("grpc-message", reply.grpc_message)
  headers:replace("grpc-status-details-bin", reply.grpc_details)
  headers:remove("www-authenticate")
  add_headers(headers, reply)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local mark = headers:get(LOCAL_REPLY)
  headers:remove(LOCAL_REPLY)
  if not (mark and mark:find("^402 ")) then
    tell_one_limit(headers)
  end
  local info = handle:streamInfo()
  if info:downstreamSslConnection() then
    headers:replace("strict-transport-security", HSTS)
  end
  local kept = info:dynamicMetadata():get("openmcp") or {}
  local named = kept.reply or mark and handle:metadata():get("reply")
  -- Envoy takes any request of such a type for gRPC; but only a POST can be.
  local method = mark and select(2, mark:match(MARK)) or "POST"
  if method == "POST" and (headers:get("content-type") or ""):find("^application/grpc") then
    grpc_error(handle, mark, named)
    return
  end

  for _, name in ipairs(NOT_FOR_REST) do
    headers:remove(name)
  end
  headers:replace("x-content-type-options", "nosniff")
  headers:replace("cache-control", "no-store")
  local status = headers:get(":status")
  if mark then
    rest_refusal(handle, mark, named, kept.fault)
  elseif headers:get(END_OF_STREAM) then
    headers:remove(END_OF_STREAM)
    headers:remove("content-type")
    headers:remove("content-length")
    headers:replace(":status", "204")
  elseif tonumber(status) >= 400 then
    rest_error(handle, status)
  elseif headers:get("content-type") == "text/event-stream" then
    headers:replace("cache-control", "no-cache")
  elseif handle:metadata():get("nulls") then
    local body = handle:body(true)
    set_body(handle, show_nulls(body:getBytes(0, body:length()), handle:metadata():get("nulls")))
  end
end
