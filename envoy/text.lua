-- What JSON is made of: UTF-8, strings, numbers. Put before the sources that need it, when the configuration is
-- rendered.
--
-- It goes byte by byte, which LuaJIT compiles; string.find with a pattern, which it does not, is for rare cases.

local byte = string.byte

local CUT_SHORT = "ends too soon to be JSON"
local NOT_FINITE = "is not a finite number, which JSON can't hold"
local NOT_ZERO = "is too close to zero: a double, which numbers are, would make it 0"
local NOT_EXACT = "is an integer that a double, which numbers are, can't hold. Send it as a string."

-- The position after the digits that begin at `at`.
local function digits_end(json, at)
  local c = byte(json, at)
  while c and c >= 48 and c <= 57 do
    at = at + 1
    c = byte(json, at)
  end
  return at
end

-- Whether a double, `value`, is another integer than the one of 16 digits or more that `number` says. What is no
-- integer is rounded, as everywhere. With an exponent, as libraries write large doubles, it need only have the digits
-- that the double is shown with.
local function is_changed(number, value)
  local whole, fraction, exponent = number:match("^(%d+)%.?(%d*)[eE]?(.*)$")
  local digits = (whole .. fraction):gsub("^0+", "")
  local significant = digits:gsub("0+$", "")
  local zeros = (tonumber(exponent) or 0) - #fraction + #digits - #significant
  if significant == "" or zeros < 0 then
    return false
  elseif exponent ~= "" and #significant <= 17 then
    return string.format("%." .. #significant - 1 .. "e", value):gsub("e.*", ""):gsub("%.", "") ~= significant
  end
  return string.format("%.0f", value) ~= significant .. ("0"):rep(zeros)
end

-- The position after the number that begins at `from`, and what is wrong with it, if anything; nil if it is none.
local function number_end(json, from)
  local first = byte(json, from) == 45 and from + 1 or from
  local at = digits_end(json, first)
  if at == first or at > first + 1 and byte(json, first) == 48 then
    return nil
  end
  local plain = at
  if byte(json, at) == 46 then
    at = digits_end(json, at + 1)
    if at == plain + 1 then
      return nil
    end
  end
  local mantissa = at
  local e = byte(json, at)
  if e == 101 or e == 69 then
    local sign = byte(json, at + 1)
    local exponent = (sign == 43 or sign == 45) and at + 2 or at + 1
    at = digits_end(json, exponent)
    if at == exponent then
      return nil
    end
  end
  if at == plain and at - first < 16 then
    return at
  end
  local number = json:sub(first, at - 1)
  local value = tonumber(number)
  if value == math.huge then
    return at, NOT_FINITE
  elseif value == 0 and json:sub(first, mantissa - 1):find("[1-9]") then
    return at, NOT_ZERO
  end
  return at, mantissa - first >= 16 and is_changed(number, value) and NOT_EXACT or nil
end

local function follows(b, least, most)
  return b and b >= (least or 0x80) and b <= (most or 0xBF)
end

-- The number of bytes of the UTF-8 character that begins at `at` with the byte `c`, which is no ASCII; nil if it is none.
local function utf8_size(json, at, c)
  local second, third, fourth = byte(json, at + 1, at + 3)
  if c >= 0xC2 and c <= 0xDF then
    return follows(second) and 2
  elseif c >= 0xE0 and c <= 0xEF then
    return follows(second, c == 0xE0 and 0xA0, c == 0xED and 0x9F) and follows(third) and 3
  elseif c >= 0xF0 and c <= 0xF4 then
    return follows(second, c == 0xF0 and 0x90, c == 0xF4 and 0x8F) and follows(third) and follows(fourth) and 4
  end
end

local function is_utf8(text)
  local at = 1
  while at <= #text do
    local c = byte(text, at)
    local size = c < 128 and 1 or utf8_size(text, at, c)
    if not size then
      return false
    end
    at = at + size
  end
  return true
end

-- What a byte stands for after a backslash, by the byte; of u and four digits, the function knows.
local ESCAPED = {
  [34] = '"', [47] = "/", [92] = "\\", [98] = "\b", [102] = "\f", [110] = "\n", [114] = "\r", [116] = "\t",
}

-- The position of the quote that ends the string whose first quote is at `from`, and whether there are escapes in it; or
-- nil, and what is wrong.
local function text_end(json, from)
  local at, escaped = from + 1, false
  while true do
    local c = byte(json, at)
    if not c then
      return nil, CUT_SHORT
    elseif c == 34 then
      return at, escaped
    elseif c < 32 then
      return nil, "has a control character that is not escaped"
    elseif c == 92 then
      escaped = true
      local code = byte(json, at + 1) == 117 and tonumber(json:match("^%x%x%x%x", at + 2) or "", 16)
      if not code then
        if not ESCAPED[byte(json, at + 1)] then
          return nil, "has an escape that JSON does not know"
        end
        at = at + 2
      elseif code < 0xD800 or code > 0xDFFF then
        at = at + 6
      elseif code < 0xDC00 and json:find("^\\u[dD][c-fC-F]%x%x", at + 6) then
        at = at + 12
      else
        return nil, "has a lone surrogate, which is no character"
      end
    elseif c < 128 then
      at = at + 1
    else
      local size = utf8_size(json, at, c)
      if not size then
        return nil, "is not UTF-8"
      end
      at = at + size
    end
  end
end

-- UTF-8's bytes of a code point.
local function utf8(code)
  if code < 0x80 then
    return string.char(code)
  elseif code < 0x800 then
    return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64)
  elseif code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
  end
  local low = { 0x80 + math.floor(code / 4096) % 64, 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64 }
  return string.char(0xF0 + math.floor(code / 262144), unpack(low))
end

-- What stands between the quotes of a string without faults, without its escapes.
local function unescaped(text)
  if text:find("\\u[dD]") then
    text = text:gsub("\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
      return utf8(0x10000 + (tonumber(high, 16) - 0xD800) * 1024 + tonumber(low, 16) - 0xDC00)
    end)
  end
  return (text:gsub("\\(.)(%x?%x?%x?%x?)", function(c, hex)
    return c == "u" and utf8(tonumber(hex, 16)) or ESCAPED[byte(c)] .. hex
  end))
end
