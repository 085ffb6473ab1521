-- Says what logs and traces may show of a request's path: all of it but the query, and but what may be a secret or a
-- token, put by mistake where an id belongs. Part of the first filter, so that every path that is told of comes by here.

-- Longer than a UUID (36 characters), shorter than a secret (57); the longest names of workspaces and types are cut too.
local PIECE = 48
-- Far longer than any path of ours. What follows is not told, nor looked at: before the other filters, a path may have
-- 256 KiB, and a stranger's costs the thread that all others wait for.
local LONGEST = 1024
local BEGINNING = 8 -- of a longer piece; a secret's says only that it is one

local function shown_piece(piece)
  return #piece > PIECE and piece:sub(1, BEGINNING) .. "..." or nil
end

function envoy_on_request(handle)
  local whole = handle:headers():get(":path") or ""
  local path = whole:sub(1, LONGEST):match("^[^?#]*")
  if #path < #whole and #path == LONGEST then
    path = (path:match("^.*[/:]") or "") .. "..." -- what is left of the piece that was cut may be a secret's
  end
  path = path:gsub("[^/:]+", shown_piece)
  handle:streamInfo():dynamicMetadata():set("openmcp", "path", (path:gsub("[^\33-\126]", "?")))
end
