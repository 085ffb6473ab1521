-- What JSON is made of: UTF-8, strings, numbers. Put before the sources that need it, when the configuration is
-- rendered.
--
-- It goes byte by byte, which LuaJIT compiles; string.find with a pattern, which it does not, is for rare cases.

local byte = string.byte

local CUT_SHORT = "ends too soon to be JSON"
local NOT_FINITE = "is not a finite number, which JSON can't hold"
local NOT_ZERO = "is too close to zero: a double, which numbers are, would make it 0"
local NOT_EXACT = "is an integer that a double, which numbers are, can't hold. Send it as a string."

-- The position after the digits that begin at `at`, and, if any of them is not 0, the positions of the first and of the
-- last that is not.
local function digits_end(json, at)
  local first, last
  local c = byte(json, at)
  while c and c >= 48 and c <= 57 do
    if c ~= 48 then
      first, last = first or at, at
    end
    at = at + 1
    c = byte(json, at)
  end
  return at, first, last
end

-- Where doubles end: the first digits of the least number that would be infinite, and of the largest that would be 0; and
-- how many places each has before its point, or, negative, how many zeros behind it.
local INFINITE, INFINITE_PLACES = "17976931348623158079", 309
local ZERO, ZERO_PLACES = "24703282292062327208", -323

-- As many of the digits from `first` to `last` as these have.
local function leading(json, first, last)
  return (json:sub(first, math.min(last, first + #ZERO)):gsub("%.", ""):sub(1, #ZERO))
end

-- No double is an integer that ends in more zeros: 5^23 is larger than 2^53.
local MOST_ZEROS = 22

-- Whether a double is another number than an integer with these digits, none of the outer ones 0, and so many zeros after
-- them. With an exponent, as libraries write large doubles, it need only have the digits that the double is shown with;
-- and if there is none, it is rounded like a fraction.
--
-- tonumber and string.format take the longer the larger a number is, so neither gets one of more zeros.
local function is_changed(digits, zeros, by_exponent)
  local is_shown = by_exponent and #digits <= 17
  if zeros > MOST_ZEROS then
    return not is_shown
  end
  local value = tonumber(digits .. "e" .. zeros)
  if value < 2 ^ 53 then
    return false
  elseif is_shown then
    return string.format("%." .. #digits - 1 .. "e", value):gsub("e.*", ""):gsub("%.", "") ~= digits
  end
  return string.format("%.0f", value) ~= digits .. ("0"):rep(zeros)
end

-- The position after the number that begins at `from`, and what is wrong with it, if anything; nil if it is none.
--
-- One pass over its bytes, whatever they are: where its digits stand tells what a double makes of it, but near the ends of
-- what doubles can hold, and for integers that may be too long.
local function number_end(json, from)
  local begin = byte(json, from) == 45 and from + 1 or from
  local at, first, last = digits_end(json, begin)
  if at == begin or at > begin + 1 and byte(json, begin) == 48 then
    return nil
  end
  local point = at
  if byte(json, at) == 46 then
    local first_behind, last_behind
    at, first_behind, last_behind = digits_end(json, at + 1)
    if at == point + 1 then
      return nil
    end
    first, last = first or first_behind, last_behind or last
  end
  local exponent = 0
  local e = byte(json, at)
  local by_exponent = e == 101 or e == 69
  if by_exponent then
    local sign = byte(json, at + 1)
    local digits = (sign == 43 or sign == 45) and at + 2 or at + 1
    at = digits_end(json, digits)
    if at == digits then
      return nil
    end
    for place = digits, at - 1 do
      exponent = math.min(exponent * 10 + byte(json, place) - 48, 1e9) -- for which no body has the digits
    end
    exponent = sign == 45 and -exponent or exponent
  end
  if not first then
    return at
  end

  -- Written without an exponent: how many places it has before its point, and how many zeros after its last digit.
  local places = exponent + point - first + (first > point and 1 or 0)
  local zeros = exponent + point - last - (last < point and 1 or 0)
  if places > INFINITE_PLACES or places == INFINITE_PLACES and leading(json, first, last) >= INFINITE then
    return at, NOT_FINITE
  elseif places < ZERO_PLACES or places == ZERO_PLACES and leading(json, first, last) <= ZERO then
    return at, NOT_ZERO
  elseif zeros < 0 or places <= 15 or by_exponent and places - zeros <= 15 then -- as many digits each double can show
    return at
  end
  return at, is_changed((json:sub(first, last):gsub("%.", "")), zeros, by_exponent) and NOT_EXACT or nil
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
local HEX = {}
for digit, pair in pairs({ "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "aA", "bB", "cC", "dD", "eE", "fF" }) do
  HEX[byte(pair, 1)], HEX[byte(pair, -1)] = digit - 1, digit - 1
end

-- The code that four hexadecimal digits say; nil if they are none.
local function code_of(json, at)
  local a, b, c, d = byte(json, at, at + 3)
  a, b, c, d = HEX[a or 0], HEX[b or 0], HEX[c or 0], HEX[d or 0]
  return a and b and c and d and ((a * 16 + b) * 16 + c) * 16 + d
end

-- The code that the second half of a surrogate pair says, if one is escaped there.
local function low_surrogate(json, at)
  local low = byte(json, at) == 92 and byte(json, at + 1) == 117 and code_of(json, at + 2)
  return low and low >= 0xDC00 and low < 0xE000 and low
end

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
      local code = byte(json, at + 1) == 117 and code_of(json, at + 2)
      if not code then
        if not ESCAPED[byte(json, at + 1)] then
          return nil, "has an escape that JSON does not know"
        end
        at = at + 2
      elseif code < 0xD800 or code > 0xDFFF then
        at = at + 6
      elseif code < 0xDC00 and low_surrogate(json, at + 6) then
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
  local parts, from = {}, 1
  local at = text:find("\\", 1, true)
  while at do
    local c, size = byte(text, at + 1), 2
    local char = ESCAPED[c]
    if c == 117 then
      local code = code_of(text, at + 2)
      local low = code >= 0xD800 and code < 0xDC00 and low_surrogate(text, at + 6)
      char, size = utf8(low and 0x10000 + (code - 0xD800) * 1024 + low - 0xDC00 or code), low and 12 or 6
    end
    parts[#parts + 1] = text:sub(from, at - 1) .. char
    from = at + size
    at = text:find("\\", from, true)
  end
  return table.concat(parts) .. text:sub(from)
end
