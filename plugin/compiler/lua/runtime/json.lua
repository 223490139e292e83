-- JSON text, one level at a time. A value is a start and an end in the text. Values that nothing has to look
-- into are checked and skipped. Functions return nil if the text is not JSON. As in exec, NaN, Infinity and
-- lone surrogates are not JSON.

local MAX_DEPTH, MAX_ITEMS = 1024, 200000

-- What becomes of a record, or of a part of it. From UNDECIDED on it is undecided, for a reason.
local KEEP, DROP, CHANGED, SEVERAL, UNDECIDED = 1, 2, 3, 4, 5
local NO_EVENT, BROKEN, TOO_DEEP, TOO_MANY = 5, 6, 7, 8

local QUOTE, BACKSLASH, COMMA, COLON = 34, 92, 44, 58
local OPEN_MAP, CLOSE_MAP, OPEN_ARRAY, CLOSE_ARRAY = 123, 125, 91, 93
local UNESCAPED = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

-- The first position from there on that is not space, and the character there.
local function solid(json, at)
  local found = byte(json, at)
  if found and found > 32 then
    return at, found
  end
  at = find(json, "[^ \t\r\n]", at)
  if at then
    return at, byte(json, at)
  end
end

-- Two runs of the text at hand, each as its start and the first character behind it: "clean" has no control
-- characters, which no string may hold; "plain" has no backslashes.
local run_json, clean_from, clean_to, plain_from, plain_to = "", 1, 1, 1, 1

local function end_of_string(json, at)
  at = at + 1
  local quote = find(json, '"', at, true)
  if not quote then
    return nil
  end
  local is_same = json == run_json
  run_json = json
  if not is_same or at < clean_from or quote > clean_to then
    local _, last = find(json, "^%C*", at)
    clean_from, clean_to = at, last + 1
  end
  if not is_same or at < plain_from or quote > plain_to then
    plain_from, plain_to = at, find(json, "\\", at, true) or #json + 1
  end
  if quote < clean_to and quote < plain_to then
    return quote
  end
  while true do
    at = find(json, '[%z\1-\31"\\]', at)
    local found = at and byte(json, at)
    if found == QUOTE then
      return at
    elseif found ~= BACKSLASH then
      return nil
    elseif UNESCAPED[sub(json, at + 1, at + 1)] then
      at = at + 2
    elseif find(json, "^u[dD][89abAB]%x%x\\u[dD][c-fC-F]%x%x", at + 1) then
      at = at + 12
    elseif find(json, "^u%x%x%x%x", at + 1) and not find(json, "^[dD][89a-fA-F]", at + 2) then
      at = at + 6
    else
      return nil
    end
  end
end

-- Where a run of digits ends; nil if there is none.
local function end_of_digits(json, at)
  local last
  while true do
    local digit = byte(json, at)
    if not digit or digit < 48 or digit > 57 then
      return last
    end
    last = at
    at = at + 1
  end
end

local function end_of_number(json, at)
  if byte(json, at) == 45 then -- a minus
    at = at + 1
  end
  local last = byte(json, at) == 48 and at or end_of_digits(json, at) -- no digit follows a first 0
  if last and byte(json, last + 1) == 46 then -- a point
    last = end_of_digits(json, last + 2)
  end
  local exponent = last and byte(json, last + 1)
  if exponent == 69 or exponent == 101 then -- E, e
    local sign = byte(json, last + 2)
    last = end_of_digits(json, last + ((sign == 43 or sign == 45) and 3 or 2))
  end
  return last
end

local WORDS = { [102] = "false", [110] = "null", [116] = "true" }

local members, elements
local fault -- why a text could not be read

-- Where the value that starts there ends. `levels` is how many more levels may be open in it.
local function end_of_value(json, at, levels)
  local found = byte(json, at)
  if found == QUOTE then
    return end_of_string(json, at)
  elseif found == OPEN_MAP then
    return (members(json, at, levels, NOTHING))
  elseif found == OPEN_ARRAY then
    return (elements(json, at, levels, NOTHING))
  end
  local word = WORDS[found]
  if not word then
    return end_of_number(json, at)
  elseif sub(json, at, at + #word - 1) == word then
    return at + #word - 1
  end
end

local function utf8_of(point)
  if point < 0x80 then
    return char(point)
  end
  local low = 0x80 + point % 0x40
  point = (point - point % 0x40) / 0x40
  if point < 0x20 then
    return char(0xC0 + point, low)
  end
  local middle = 0x80 + point % 0x40
  point = (point - point % 0x40) / 0x40
  if point < 0x10 then
    return char(0xE0 + point, middle, low)
  end
  return char(0xF0 + (point - point % 0x40) / 0x40, 0x80 + point % 0x40, middle, low)
end

local function string_at(json, first, last)
  local body = sub(json, first + 1, last - 1)
  if not find(body, "\\", 1, true) then
    return body
  end
  local pieces, from = {}, first + 1
  local at = find(json, "\\", from, true)
  while at and at < last do
    pieces[#pieces + 1] = sub(json, from, at - 1)
    local simple = UNESCAPED[sub(json, at + 1, at + 1)]
    if simple then
      pieces[#pieces + 1] = simple
      from = at + 2
    else
      local point = tonumber(sub(json, at + 2, at + 5), 16)
      from = at + 6
      if point >= 0xD800 and point < 0xDC00 then -- the other half comes next
        local other = tonumber(sub(json, from + 2, from + 5), 16)
        point = 0x10000 + (point - 0xD800) * 0x400 + other - 0xDC00
        from = from + 6
      end
      pieces[#pieces + 1] = utf8_of(point)
    end
    at = find(json, "\\", from, true)
  end
  pieces[#pieces + 1] = sub(json, from, last - 1)
  return concat(pieces)
end

-- The members of the map that starts there. Returns where the map ends, a list, and an index of it. The list
-- has four entries for each member: the key, the start of the member, and the start and end of its value. The
-- index has the place in the list of the last member of each key. If the list is NOTHING, all is only checked.
function members(json, at, levels, list)
  local index = list ~= NOTHING and {} or nil
  if levels == 0 then
    fault = TOO_DEEP
    return nil
  end
  local found
  at, found = solid(json, at + 1)
  if found == CLOSE_MAP then
    return at, list, index
  end
  while found == QUOTE do
    local from = at
    local key_end = end_of_string(json, at)
    if not key_end then
      return nil
    end
    at, found = solid(json, key_end + 1)
    if found ~= COLON then
      return nil
    end
    local first = solid(json, at + 1)
    local last = first and end_of_value(json, first, levels - 1)
    if not last then
      return nil
    end
    if index then
      local key, size = string_at(json, from, key_end), #list
      list[size + 1], list[size + 2], list[size + 3], list[size + 4] = key, from, first, last
      index[key] = size + 1
    end
    at, found = solid(json, last + 1)
    if found == CLOSE_MAP then
      return at, list, index
    elseif found ~= COMMA then
      return nil
    end
    at, found = solid(json, at + 1)
  end
  return nil
end

-- The elements of the array that starts there. Returns where the array ends, and a list of two entries for
-- each element: its start and end. A very long array is not taken apart.
function elements(json, at, levels, list)
  if levels == 0 then
    fault = TOO_DEEP
    return nil
  end
  local found
  at, found = solid(json, at + 1)
  if found == CLOSE_ARRAY then
    return at, list
  end
  while found do
    local last = end_of_value(json, at, levels - 1)
    if not last then
      return nil
    end
    if list ~= NOTHING then
      local size = #list
      if size == 2 * MAX_ITEMS then
        fault = TOO_MANY
        return nil
      end
      list[size + 1], list[size + 2] = at, last
    end
    at, found = solid(json, last + 1)
    if found == CLOSE_ARRAY then
      return at, list
    elseif found ~= COMMA then
      return nil
    end
    at, found = solid(json, at + 1)
  end
  return nil
end

local function quoted_char(found)
  return found == '"' and '\\"' or found == "\\" and "\\\\" or ("\\u%04x"):format(byte(found))
end

local function quoted(value)
  return '"' .. gsub(value, '[%z\1-\31"\\]', quoted_char) .. '"'
end

-- Takes a map or an array apart, as `members` and `elements` do. Returns nil and a fate where that can't be done.
local function open(parse, json, at)
  fault = BROKEN
  local last, list, index = parse(json, at, MAX_DEPTH, {})
  if last then
    return last, list, index
  end
  return nil, fault
end

-- Whether a value certainly does not contain a name. Each letter of a name may be written as an escape.
local function lacks(json, first, last, name)
  local value = sub(json, first, last) -- a search behind the end would make long lists of events slow
  return not (find(value, name, 1, true) or find(value, "\\u", 1, true))
end

local function is_utf8(value)
  local at = find(value, "[\128-\255]")
  while at do
    if find(value, "^[\194-\223][\128-\191]", at) then
      at = at + 2
    elseif
      find(value, "^\224[\160-\191][\128-\191]", at)
      or find(value, "^[\225-\236\238\239][\128-\191][\128-\191]", at)
      or find(value, "^\237[\128-\159][\128-\191]", at)
    then
      at = at + 3
    elseif
      find(value, "^\240[\144-\191][\128-\191][\128-\191]", at)
      or find(value, "^[\241-\243][\128-\191][\128-\191][\128-\191]", at)
      or find(value, "^\244[\128-\143][\128-\191][\128-\191]", at)
    then
      at = at + 4
    else
      return false
    end
    at = find(value, "[\128-\255]", at)
  end
  return true
end

-- Functions that read the values of fields, by type. They return nil for a value of another type.
local READERS = {
  text = function(json, first, last)
    return byte(json, first) == QUOTE and string_at(json, first, last) or nil
  end,
  integer = function(json, first, last)
    local digits = sub(json, first, last)
    return find(digits, "^%-?%d+$") and tonumber(digits) or nil
  end,
  texts = function(json, first)
    if byte(json, first) ~= OPEN_ARRAY then
      return nil
    end
    local last, list = open(elements, json, first)
    if not last or #list > 2 * MAX_TEXTS then
      return nil, true
    end
    local values = {}
    for i = 1, #list, 2 do
      values[#values + 1] = byte(json, list[i]) == QUOTE and string_at(json, list[i], list[i + 1]) or ""
    end
    return values
  end,
}

-- The value of a member, if it has the given type; nil if it is absent or has another type. The second result is
-- true for a list that is too long.
local function read(json, list, index, name, kind)
  local at = index and index[name]
  if at then
    return READERS[kind](json, list[at + 2], list[at + 3])
  end
end

-- The fields that make a map an event, and those that conditions read. If the value of an object is not a map, it
-- is false. A user that is null has no name. The second result is true if a list is too long.
local function event_of(json, list, index)
  local event, is_too_long = { auditID = read(json, list, index, "auditID", "text") }, false
  local lists, indexes = { [""] = list }, { [""] = index }
  for i = 1, #FIELDS do
    local field = FIELDS[i]
    local object = field.object
    local at = object ~= "" and event[object] == nil and index[object]
    if at then
      local first, last = list[at + 2], list[at + 3]
      local is_object = byte(json, first) == OPEN_MAP
      if is_object then
        last, lists[object], indexes[object] = open(members, json, first)
      end
      event[object] = (is_object or (object == "user" and sub(json, first, last) == "null")) and {}
    end
    local value, is_long = read(json, lists[object], indexes[object], field.name, field.type)
    is_too_long = is_too_long or is_long
    if object == "" then
      event[field.name] = value
    elseif value ~= nil then
      event[object][field.name] = value
    end
  end
  return event, is_too_long
end
