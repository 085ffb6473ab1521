-- Says what logs and traces may show of a request: of its path all but the query, and but what may be a secret or a token,
-- put by mistake where an id belongs; its method, if it is one; which trace the caller says that it belongs to; and the id
-- that Envoy gave it, in place of the caller's. Part of the first filter: a request that is refused before, for having no
-- host for instance, is shown by nothing of its own, and has no id but one that a caller wrote.

-- Longer than a UUID (36 characters), shorter than a secret (57); the longest names of workspaces and types are cut too.
local PIECE = 48
-- Far longer than any path of ours. What follows is not told, nor looked at: before the other filters, a path may have
-- 256 KiB, and a stranger's costs the thread that all others wait for.
local LONGEST = 1024
local BEGINNING = 8 -- of a longer piece; a secret's says only that it is one
local METHOD = 16 -- characters; far more than any method of ours
local TRACEPARENT = 55 -- characters, of version 00 (https://www.w3.org/TR/trace-context/)

local function shown_piece(piece)
  return #piece > PIECE and piece:sub(1, BEGINNING) .. "..." or nil
end

local function shown_path(whole)
  local path = whole:sub(1, LONGEST):match("^[^?#]*")
  if #path < #whole and #path == LONGEST then
    path = (path:match("^.*[/:]") or "") .. "..." -- what is left of the piece that was cut may be a secret's
  end
  path = path:gsub("[^/:]+", shown_piece)
  return (path:gsub("[^\33-\126]", "?"))
end

-- What is no method is called as OpenTelemetry calls it.
local function shown_method(method)
  return #method <= METHOD and method:find("^%u+$") and method or "_OTHER"
end

-- The trace's id; nil if the header has not the form of version 00.
local function trace_id(traceparent)
  if #traceparent ~= TRACEPARENT then
    return nil
  end
  local id, span = traceparent:match("^00%-([0-9a-f]+)%-([0-9a-f]+)%-[0-9a-f][0-9a-f]$")
  return id and #id == 32 and #span == 16 and id or nil
end

function envoy_on_request(handle)
  local headers, shown = handle:headers(), handle:streamInfo():dynamicMetadata()
  shown:set("openmcp", "path", shown_path(headers:get(":path") or ""))
  shown:set("openmcp", "request_id", headers:get("x-request-id") or "")
  shown:set("openmcp", "method", shown_method(headers:get(":method") or ""))
  local trace = trace_id(headers:get("traceparent") or "")
  if trace then
    shown:set("openmcp", "trace_id", trace)
  end
end
