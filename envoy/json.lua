-- Finds what is wrong with a JSON request, and where: the transcoder says it of few faults, and changes what it can't
-- keep.
--
-- Put before the other filters' sources when the configuration is rendered, behind two tables of the contract's:
-- FIELDS, for each message that REST sends as JSON the kind of each field ("string", "struct", "map" of strings, or
-- "any" other), and LEVELS, how deep a Struct may be. It goes byte by byte, which LuaJIT compiles; string.find with a pattern, which
-- it does not, is for rare cases.

local byte = string.byte

local KEY_BYTES = 64 -- of a key, as it is shown
local PATH_STEPS = 16 -- of a path, as it is shown

local CUT_SHORT = "ends too soon to be JSON"
local NOT_JSON = "is not JSON"
local NOT_FINITE = "is not a finite number, which JSON can't hold"
local NOT_EXACT = "is an integer beyond 2^53 that can't be kept exactly: numbers are doubles. Send it as a string."
local MUST_BE = { string = "must be a string", struct = "must be an object", map = "must be an object of strings" }

-- What a value is by its first byte.
local KINDS = { [34] = "string", [123] = "object", [91] = "array", [116] = "true", [102] = "false", [110] = "null" }
for c = 48, 57 do
  KINDS[c] = "number"
end
KINDS[45] = "number"

local KINDS_OF_ALL = {}
for _, is in pairs(KINDS) do
  KINDS_OF_ALL[is] = true
end
local WRAPPED = 3 -- how many levels deeper a Struct may be that is in a list of messages

local FITS = {
  string = { string = true, null = true },
  struct = { object = true, null = true },
  map = { object = true, null = true },
  any = KINDS_OF_ALL,
}

-- The position after the digits that begin at `at`.
local function digits_end(json, at)
  local c = byte(json, at)
  while c and c >= 48 and c <= 57 do
    at = at + 1
    c = byte(json, at)
  end
  return at
end

-- Whether a double holds the integer that these digits are.
local function is_exact(digits)
  return string.format("%.0f", tonumber(digits)) == digits
end

-- The position after the number that begins at `from`, and what is wrong with it, if anything; nil if it is none.
local function number_end(json, from)
  local first = byte(json, from) == 45 and from + 1 or from
  local point = digits_end(json, first)
  if point == first or point > first + 1 and byte(json, first) == 48 then
    return nil
  end
  local at = point
  if byte(json, at) == 46 then
    at = digits_end(json, point + 1)
    if at == point + 1 then
      return nil
    end
  end
  local e = byte(json, at)
  if e == 101 or e == 69 then
    local sign = byte(json, at + 1)
    local exponent = (sign == 43 or sign == 45) and at + 2 or at + 1
    at = digits_end(json, exponent)
    if at == exponent then
      return nil
    end
  elseif at == point then
    return at, point - first >= 16 and not is_exact(json:sub(first, point - 1)) and NOT_EXACT or nil
  end
  return at, tonumber(json:sub(first, at - 1)) == math.huge and NOT_FINITE or nil
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

-- The position of the quote that ends the string whose first quote is at `from`; or nil, and what is wrong.
local function text_end(json, from)
  local at = from + 1
  while true do
    local c = byte(json, at)
    if not c then
      return nil, CUT_SHORT
    elseif c == 34 then
      return at
    elseif c < 32 then
      return nil, "has a control character that is not escaped"
    elseif c == 92 then
      local code = tonumber(json:match("^u(%x%x%x%x)", at + 1) or "", 16)
      if not code then
        if not json:find('^["\\/bfnrt]', at + 1) then
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

-- A key as it is shown: as it was written, but cut if it is long.
local function shown(key)
  if #key <= KEY_BYTES then
    return key
  end
  return (key:sub(1, KEY_BYTES):gsub("[\192-\255]?[\128-\191]*$", "")) .. "..."
end

-- The name of a key that may have been written with escapes. Names of fields are ASCII.
local function plain(key)
  return (key:gsub("\\u00(%x%x)", function(code) return string.char(tonumber(code, 16)) end))
end

-- What is wrong first with the request that `json` is to be, as a path and a sentence; nil if nothing is.
--
-- `fields` has the kinds of the message's fields. Other members can hold any JSON, and are ignored by the transcoder.
local function fault(json, fields)
  -- For each open container, the outermost first: whether it is an object; the ends of its present key; the number of its
  -- present element. A path is put together only for the one fault that is told.
  local is_object, key_from, key_to, index = {}, {}, {}, {}
  local depth, at = 0, 1
  local name, kind -- of the request's present member
  local seen = {} -- for each open container: the keys that may be in it only once, those of a map or a Struct

  local function path(to)
    if not (kind or name and #name <= KEY_BYTES and name:find("^[%w_]+$")) then
      return "request"
    end
    local steps = { name }
    for level = 2, math.min(to, PATH_STEPS) do
      if not is_object[level] then
        steps[level] = "[" .. index[level] .. "]"
      elseif not key_from[level] then
        break
      else
        local key = shown(json:sub(key_from[level], key_to[level]))
        steps[level] = kind == "map" and '["' .. key .. '"]' or "." .. key
      end
    end
    return table.concat(steps)
  end
  local function blame(what)
    return path(depth), what
  end

  local expects, fresh = "value", false -- `fresh`: a container was just opened, and may be empty
  while true do
    local c = byte(json, at)
    while c == 32 or c == 10 or c == 13 or c == 9 do
      at = at + 1
      c = byte(json, at)
    end
    if expects == "end" then
      if c then
        return "request", "has more after the end of its JSON"
      end
      return nil
    elseif not c then
      return blame(CUT_SHORT)
    end

    if fresh and c == (is_object[depth] and 125 or 93) or expects == "next" and (c == 125 or c == 93) then
      if is_object[depth] ~= (c == 125) then
        return blame(NOT_JSON)
      end
      depth = depth - 1
      expects = depth == 0 and "end" or "next"
      at = at + 1
    elseif expects == "next" then
      if c ~= 44 then
        return blame(NOT_JSON)
      end
      expects = is_object[depth] and "key" or "value"
      index[depth] = index[depth] + 1
      if depth == 1 then
        name, kind = nil, nil
      end
      at = at + 1
    elseif expects == "key" then
      key_from[depth] = nil
      local last, wrong
      if c == 34 then
        last, wrong = text_end(json, at)
      end
      if not last then
        return blame(wrong and "a key in it " .. wrong or NOT_JSON)
      end
      key_from[depth], key_to[depth] = at + 1, last - 1
      if depth == 1 then
        name = plain(json:sub(at + 1, last - 1))
        kind = fields[name]
      elseif kind == "map" or kind == "struct" then
        local key, keys = json:sub(at + 1, last - 1), seen[depth] or {}
        if keys[key] then
          return blame("is there twice")
        end
        keys[key], seen[depth] = true, keys
      end
      expects = "colon"
      at = last + 1
    elseif expects == "colon" then
      if c ~= 58 then
        return blame(NOT_JSON)
      end
      expects = "value"
      at = at + 1
    else
      local is = KINDS[c]
      if depth == 0 and is ~= "object" then
        return "request", "must be a JSON object"
      elseif not is then
        return blame(NOT_JSON)
      elseif depth == 1 and kind and not FITS[kind][is] then
        return blame(MUST_BE[kind])
      elseif depth == 2 and kind == "map" and is ~= "string" then
        return blame(MUST_BE.string)
      end
      expects = "next"
      if is == "string" then
        local last, wrong = text_end(json, at)
        if not last then
          return blame(wrong)
        end
        at = last + 1
      elseif is == "number" then
        local after, wrong = number_end(json, at)
        if not after then
          return blame(NOT_JSON)
        elseif wrong and (wrong ~= NOT_EXACT or kind == "struct" or kind == "any") then
          return blame(wrong)
        end
        at = after
      elseif is == "object" or is == "array" then
        if depth > (kind == "any" and LEVELS + WRAPPED or LEVELS) then
          return path(1), "is nested deeper than " .. LEVELS .. " levels"
        end
        depth = depth + 1
        is_object[depth], index[depth], key_from[depth], seen[depth] = is == "object", 0, nil, nil
        expects = is_object[depth] and "key" or "value"
        at = at + 1
      elseif json:sub(at, at + #is - 1) == is then
        at = at + #is
      else
        return blame(NOT_JSON)
      end
    end
    fresh = (c == 123 or c == 91) and expects ~= "next"
  end
end
