-- Refuses headers over HEADER_BYTES or HEADER_COUNT, which are put before this source when the configuration is
-- rendered: above a limit of its own, Envoy resets an HTTP/2 stream without a word.

function envoy_on_request(handle)
  local bytes, count = 0, 0
  for name, value in pairs(handle:headers()) do
    bytes, count = bytes + #name + #value, count + 1
  end
  if bytes > HEADER_BYTES or count > HEADER_COUNT then
    handle:respond({ [":status"] = "431" }, "")
  end
end
