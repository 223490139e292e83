-- Sets of patterns: filter_engine/patterns.py in Lua. A pattern with a literal beginning is found by it, with one
-- look-up for each length of a beginning, and one that begins with a star by its end.

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

-- The patterns of all sets that are compared with the same field. The sets that have a pattern which matches a
-- value are found once for all of them, and remembered for the last values.
local indexes = {}
local MOST_KNOWN, LONGEST_KNOWN = 1000, 1000

local function index_of(field)
  local index = indexes[field] or { starts = {}, ends = {}, open = {}, known = {}, count = 0 }
  indexes[field] = index
  return index
end

-- Files a pattern under its first or last literal.
local function file(entries, literal, pattern)
  local entry
  for i = 1, #entries do
    entry = entries[i].length == #literal and entries[i] or entry
  end
  if not entry then
    entry = { length = #literal, patterns = {} }
    entries[#entries + 1] = entry
  end
  local own = entry.patterns[literal] or {}
  own[#own + 1] = pattern
  entry.patterns[literal] = own
end

-- A set of patterns that a field is compared with. They are given as the keys of a table.
local function patterns(field, values)
  local index = index_of(field)
  local set = { words = {}, index = index, has_stars = false, has_all = false }
  for value in next, values do
    local literals = literals_of(value)
    local first, last = literals[1], literals[#literals]
    local pattern = { set = set, from = #first + 1, last = last } -- and the literals between two stars
    for i = 2, #literals - 1 do
      if literals[i] ~= "" then
        pattern[#pattern + 1] = literals[i]
      end
    end
    if #literals == 1 then
      set.words[first] = true
    elseif first == "" and last == "" and #pattern == 0 then
      set.has_all = true
    else
      set.has_stars = true
      if first ~= "" then
        file(index.starts, first, pattern)
      elseif last ~= "" then
        file(index.ends, last, pattern)
      else
        index.open[#index.open + 1] = pattern
      end
    end
  end
  return set
end

-- Whether a value fits a pattern, if it begins as the pattern does.
local function fits(pattern, value)
  local last = pattern.last
  local at, stop = pattern.from, #value - #last
  if last ~= "" and sub(value, stop + 1) ~= last then
    return false
  end
  -- The leftmost place of each literal leaves most for the next: no other choice can do better.
  for i = 1, #pattern do
    local _, to = find(value, pattern[i], at, true)
    if not to or to > stop then
      return false
    end
    at = to + 1
  end
  return at <= stop + 1
end

-- Adds the sets of those of the patterns that a value fits.
local function collect_sets(found, own, value)
  for i = 1, #own do
    local pattern = own[i]
    if not found[pattern.set] and fits(pattern, value) then
      found[pattern.set] = true
    end
  end
end

-- The sets that have a pattern which matches a value.
local function sets_of(index, value)
  local found, starts, ends = {}, index.starts, index.ends
  for i = 1, #starts do
    collect_sets(found, starts[i].patterns[sub(value, 1, starts[i].length)] or NOTHING, value)
  end
  for i = 1, #ends do
    collect_sets(found, ends[i].patterns[sub(value, -ends[i].length)] or NOTHING, value)
  end
  collect_sets(found, index.open, value)
  if #value <= LONGEST_KNOWN then
    if index.count == MOST_KNOWN then
      index.known, index.count = {}, 0
    end
    index.known[value], index.count = next(found) and found or NOTHING, index.count + 1
  end
  return found
end

local function matches(set, value)
  if set.has_all or set.words[value] then
    return true
  end
  local index = set.index
  return set.has_stars and ((index.known[value] or sets_of(index, value))[set] or false)
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
