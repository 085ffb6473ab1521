-- Keeps a JSON body until its answer, so that an error of the transcoder's can name the field that it is in; and refuses the
-- one fault that the transcoder would pass: an integer that it would change. Stands after token, rate limit and the
-- limit of a body, before the transcoder.

-- Whether the JSON may hold an integer of 16 digits or more that no double is. Quick, since it looks at every 16th byte
-- only, and at strings too; `fault` knows for certain.
local function may_be_inexact(json)
  local at = 16
  while true do
    local c = byte(json, at)
    if not c then
      return false
    elseif c < 48 or c > 57 then
      at = at + 16
    else
      local first, last = at, digits_end(json, at)
      repeat
        first = first - 1
        c = byte(json, first)
      until not c or c < 48 or c > 57
      local next = byte(json, last)
      local in_text = c == 34 or next == 34
      local has_fraction = c == 46 or next == 46 or next == 101 or next == 69
      if last - first > 16 and not in_text and not has_fraction and not is_exact(json:sub(first + 1, last - 1)) then
        return true
      end
      at = last + 16
    end
  end
end

function envoy_on_request(handle)
  local message = handle:metadata():get("message")
  if not message then
    return
  end
  local body = handle:body(true)
  local json = body:getBytes(0, body:length())
  handle:streamInfo():dynamicMetadata():set("openmcp", "request", { message = message, json = json })
  if may_be_inexact(json) and fault(json, FIELDS[message]) then
    handle:respond({ [":status"] = "400" }, "") -- the first filter finds the fault again, and tells it
  end
end
