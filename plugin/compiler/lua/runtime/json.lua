-- JSON text, one level at a time. A value is where it starts and ends in the text; what nothing has to
-- look into is checked and skipped. Functions return nil where the text is not JSON.

local MAX_DEPTH, MAX_ITEMS = 1024, 200000
local QUOTE, BACKSLASH, COMMA, COLON = 34, 92, 44, 58
local OPEN_MAP, CLOSE_MAP, OPEN_ARRAY, CLOSE_ARRAY = 123, 125, 91, 93
local UNESCAPED = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

-- The first position from there on that is not space, and what is there.
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

-- Runs of the text at hand in which there are no control characters, which no string may hold, and no
-- backslashes: where they start, and the first character behind them.
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
    elseif find(json, "^u%x%x%x%x", at + 1) then
      at = at + 6
    else
      return nil
    end
  end
end

-- Where the digits end of which the first has to be there.
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

-- Where the value ends that starts there; so many levels may be open in it.
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
      if point >= 0xD800 and point < 0xDC00 and find(json, "^\\u[dD][c-fC-F]%x%x", from) then
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

-- The members of the map that starts there: where it ends, then a list of four entries for each member
-- (its key, where the member starts, where its value starts and ends), then where in the list the last
-- member of a key is. Nothing is put down where the list is NOTHING.
function members(json, at, levels, list)
  local index = list ~= NOTHING and {} or nil
  if levels == 0 then
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

-- The elements of the array that starts there: where it ends, then a list of two entries for each, where
-- it starts and ends. A very long array is not taken apart.
function elements(json, at, levels, list)
  if levels == 0 then
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

-- A member's value where it is a string; a number where it is an integer; else nil.
local function plain_value(json, list, at)
  if not at then
    return nil
  end
  local first, last = list[at + 2], list[at + 3]
  if byte(json, first) == QUOTE then
    return string_at(json, first, last)
  end
  local digits = sub(json, first, last)
  return find(digits, "^%-?%d+$") and tonumber(digits) or nil
end

local function plain_members(json, list, at, ...)
  if not at or byte(json, list[at + 2]) ~= OPEN_MAP then
    return nil
  end
  local _, inner, index = members(json, list[at + 2], MAX_DEPTH, {})
  local values = {}
  for i = 1, select("#", ...) do
    local key = select(i, ...)
    values[key] = plain_value(json, inner, index[key])
  end
  return values, inner, index
end

-- The fields of an event that rules look at.
local function event_of(json, list, index)
  local event = {
    verb = plain_value(json, list, index.verb),
    stage = plain_value(json, list, index.stage),
    level = plain_value(json, list, index.level),
    requestURI = plain_value(json, list, index.requestURI),
    objectRef = plain_members(
      json, list, index.objectRef, "namespace", "apiGroup", "resource", "subresource", "name"
    ),
    responseStatus = plain_members(json, list, index.responseStatus, "code"),
  }
  local account, inner, keys = plain_members(json, list, index.user, "username")
  event.user = account
  local at = account and keys.groups
  if at and byte(json, inner[at + 2]) == OPEN_ARRAY then
    local _, found = elements(json, inner[at + 2], MAX_DEPTH, {})
    account.groups = {}
    for i = 1, found and #found or 0, 2 do
      local is_string = byte(json, found[i]) == QUOTE
      account.groups[#account.groups + 1] = is_string and string_at(json, found[i], found[i + 1]) or ""
    end
  end
  return event
end
