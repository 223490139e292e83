-- Sets of texts and patterns: filter_engine/patterns.py in Lua. A pattern with a literal beginning is found by
-- it, with one look-up for each length of a beginning, and one that begins with a star by its end.

local STAR = 42

-- The literals around the stars of a pattern. "\*" is a star, and "\\" a backslash.
local function literals_of(pattern)
  local literals, literal, at = {}, "", 1
  while true do
    local special = find(pattern, "[*\\]", at)
    literal = literal .. sub(pattern, at, (special or 0) - 1)
    if not special then
      literals[#literals + 1] = literal
      return literals
    elseif byte(pattern, special) == STAR then
      literals[#literals + 1] = literal
      literal, at = "", special + 1
    else
      literal, at = literal .. sub(pattern, special + 1, special + 1), special + 2
    end
  end
end

-- Adds a pattern to those that begin, or end, with a literal.
local function file(index, literal, pattern)
  local entry
  for i = 1, #index do
    entry = index[i].length == #literal and index[i] or entry
  end
  if not entry then
    entry = { length = #literal, patterns = {} }
    index[#index + 1] = entry
  end
  local own = entry.patterns[literal] or {}
  own[#own + 1] = pattern
  entry.patterns[literal] = own
end

-- A set of texts and patterns. Both are given as the keys of a table.
local function patterns(values)
  local set = { words = {}, starts = {}, ends = {}, open = {}, has_all = false }
  for value in next, values do
    local literals = literals_of(value)
    local first, last = literals[1], literals[#literals]
    local pattern = { from = #first + 1, last = last } -- and the literals between two stars
    for i = 2, #literals - 1 do
      if literals[i] ~= "" then
        pattern[#pattern + 1] = literals[i]
      end
    end
    if #literals == 1 then
      set.words[first] = true
    elseif first ~= "" then
      file(set.starts, first, pattern)
    elseif last ~= "" then
      file(set.ends, last, pattern)
    elseif #pattern > 0 then
      set.open[#set.open + 1] = pattern
    else
      set.has_all = true
    end
  end
  return set
end

-- Whether a text that begins as one of these patterns fits one of them.
local function fits(found, value)
  for i = 1, #found do
    local pattern = found[i]
    local at, last = pattern.from, pattern.last
    local stop = #value - #last
    local does_fit = last == "" or sub(value, stop + 1) == last
    local middle = 1
    -- The leftmost place of each literal leaves most for the next: no other choice can do better.
    while does_fit and pattern[middle] do
      local _, found_to = find(value, pattern[middle], at, true)
      does_fit = found_to ~= nil and found_to <= stop
      at, middle = (found_to or 0) + 1, middle + 1
    end
    if does_fit and at <= stop + 1 then
      return true
    end
  end
  return false
end

local function matches(set, value)
  if set.has_all or set.words[value] then
    return true
  end
  local starts, ends = set.starts, set.ends
  for i = 1, #starts do
    local found = starts[i].patterns[sub(value, 1, starts[i].length)]
    if found and fits(found, value) then
      return true
    end
  end
  for i = 1, #ends do
    local found = ends[i].patterns[sub(value, -ends[i].length)]
    if found and fits(found, value) then
      return true
    end
  end
  return fits(set.open, value)
end

local function one_matches(set, values)
  for i = 1, #values do
    if matches(set, text(values[i])) then
      return true
    end
  end
  return false
end

return patterns, matches, one_matches
