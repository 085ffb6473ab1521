-- Keeps a small JSON body until its answer, so that an error of the transcoder's can name the field that it is in: the
-- transcoder itself only shows the characters around it. Stands after token and rate limit, before the transcoder.

local KEPT_BYTES = 65536 -- beyond, the error names `request`

function envoy_on_request(handle)
  local length = tonumber(handle:headers():get("content-length") or "")
  if length and length > 0 and length <= KEPT_BYTES and handle:metadata():get("keep_body") then
    local body = handle:body(true)
    handle:streamInfo():dynamicMetadata():set("openmcp", "body", body:getBytes(0, body:length()))
  end
end
