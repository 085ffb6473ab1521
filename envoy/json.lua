-- Finds what is wrong with a JSON request, and where, before the transcoder gets it: that says it of few faults, takes
-- much that is no JSON, drops fields that it does not know, and changes numbers that it can't keep.
--
-- Put before the source of the filter `request` when the configuration is rendered, behind text.lua and two tables of
-- the contract's: MESSAGES, by the full name of each message that a request may hold the kinds of its fields, and LEVELS,
-- how deep a Struct may be; and VALUES, how many values and names a request may have in all. A kind is a key of FITS, a
-- message's full name, or "[]" and the kind of a list's elements.

local KEY_BYTES = 64 -- of a key, as it is shown
local PATH_STEPS = 16 -- of a path, as it is shown

local NOT_JSON = "is not JSON"
local TOO_MANY = "has more than the " .. VALUES .. " values and names that a request may have in all"
local OBJECT, ARRAY = { object = true }, { array = true }

-- What a value is by its first byte.
local KINDS = { [34] = "string", [123] = "object", [91] = "array", [116] = "true", [102] = "false", [110] = "null" }
for c = 48, 57 do
  KINDS[c] = "number"
end
KINDS[45] = "number"

-- What a value may be. The field of a message may also be null, which is as if it were not there.
local FITS = {
  string = { string = true },
  bool = { ["true"] = true, ["false"] = true },
  integer = { number = true, string = true },
  number = { number = true, string = true },
  enum = { string = true, number = true },
  time = { string = true },
  duration = { string = true },
  struct = OBJECT,
  map = OBJECT,
  value = { string = true, object = true, array = true, number = true, ["true"] = true, ["false"] = true, null = true },
}
local MUST_BE = {
  string = "must be a string",
  bool = "must be true or false",
  integer = "must be an integer",
  number = "must be a number",
  enum = "must be one of its names, as a string",
  time = 'must be a time as a string, such as "2024-01-01T00:00:00Z"',
  duration = 'must be a duration as a string, such as "1.5s"',
  map = "must be an object of strings",
}
for message, fields in pairs(MESSAGES) do
  FITS[message] = OBJECT
  for _, kind in pairs(fields) do
    if kind:sub(1, 2) == "[]" then
      FITS[kind], MUST_BE[kind] = ARRAY, "must be a list"
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

-- What is wrong first with the JSON that is to be the message of this name, as a path and a sentence; nil if nothing
-- is. `in_path` are the fields that the path names: a request can't have them in its body as well.
local function fault(json, message, in_path)
  -- For each open container, the outermost first: whether it is an object; the kinds of its fields if it is a
  -- message's; else the kind of whatever is in it, and whether it is a map. The ends of its present key, the number of
  -- its present element; its first key, and all of its keys once there are two. A path is put together only for the one
  -- fault that is told.
  local is_object, fields, inner, is_map = {}, {}, {}, {}
  local key_from, key_to, index, first_key, keys = {}, {}, {}, {}, {}
  local depth, at = 0, 1
  local kind = message -- of the value that comes next
  local base -- the depth of the Struct that is open
  local counted = 0 -- values and names

  local function path(to)
    local steps = {}
    for level = 1, math.min(to, PATH_STEPS) do
      if not is_object[level] then
        steps[level] = "[" .. index[level] .. "]"
      elseif not key_from[level] then
        break
      else
        local key = json:sub(key_from[level], key_to[level])
        key = fields[level] and unescaped(key) or shown(key)
        steps[level] = is_map[level] and '["' .. key .. '"]' or (level > 1 and "." or "") .. key
      end
    end
    return steps[1] and table.concat(steps) or "request"
  end
  local function blame(what)
    return path(depth), what
  end
  local function one_more()
    counted = counted + 1
    return counted <= VALUES
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
      expects, kind = is_object[depth] and "key" or "value", inner[depth]
      index[depth], key_from[depth] = index[depth] + 1, nil
      at = at + 1
    elseif expects == "key" then
      local last, told
      if c == 34 then
        last, told = text_end(json, at)
      end
      if not last then
        return blame(told and "a key in it " .. told or NOT_JSON)
      elseif not one_more() then
        return path(1), TOO_MANY
      end
      local key = json:sub(at + 1, last - 1)
      if told then -- of escapes
        key = unescaped(key)
      end
      if fields[depth] then
        kind = fields[depth][key]
        if not kind and not (#key <= KEY_BYTES and key:find("^[%w_]+$")) then
          return blame("has a field that this call does not have")
        end
      end
      key_from[depth], key_to[depth] = at + 1, last - 1
      if not kind then
        return blame("this call has no such field")
      elseif depth == 1 and in_path[key] then
        return blame("is named by the path, and cannot be in the body too")
      elseif index[depth] == 0 then
        first_key[depth], keys[depth] = key, nil
      else
        local known = keys[depth] or { [first_key[depth]] = true }
        if known[key] then
          return blame("is there twice")
        end
        known[key], keys[depth] = true, known
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
      elseif not FITS[kind][is] and not (is == "null" and fields[depth]) then
        return blame(MUST_BE[kind] or "must be an object")
      elseif not one_more() then
        return path(1), TOO_MANY
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
        elseif wrong and (kind == "value" or wrong == NOT_FINITE) then
          return blame(wrong)
        end
        at = after
      elseif is == "object" or is == "array" then
        if kind == "struct" then
          base = depth
        elseif kind == "value" and depth - base >= LEVELS then
          return path(base), "is nested deeper than " .. LEVELS .. " levels"
        end
        depth = depth + 1
        is_object[depth], index[depth], key_from[depth] = is == "object", 0, nil
        fields[depth], is_map[depth] = MESSAGES[kind], kind == "map"
        if kind == "struct" or kind == "value" then
          inner[depth] = "value"
        elseif is_object[depth] then
          inner[depth] = kind == "map" and "string" or nil
        else
          inner[depth] = kind:sub(3)
        end
        expects, kind = is_object[depth] and "key" or "value", inner[depth]
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
