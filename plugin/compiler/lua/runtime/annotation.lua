-- The annotation that says at which rate an event was sampled, so that counts can be scaled.

local RATE = "kube-audit-filter.io/sample-rate"
local MAP = 2 -- see ARRAY

-- The map that starts and ends there, with one more member.
local function extended(json, at, last, is_empty, member)
  return sub(json, at, last - 1) .. (is_empty and "" or ",") .. member .. "}"
end

-- The annotations that start there, with the rate; nil if nothing changes.
local function with_rate(json, at, rate)
  if byte(json, at) ~= OPEN_MAP then
    return nil
  end
  local last, list, index = open(members, json, at)
  local place = index[RATE]
  if not place then
    return extended(json, at, last, #list == 0, quoted(RATE) .. ":" .. quoted(rate))
  end
  local from, to = list[place + 2], list[place + 3]
  if byte(json, from) == QUOTE and string_at(json, from, to) == rate then
    return nil
  end
  return sub(json, at, from - 1) .. quoted(rate) .. sub(json, to + 1, last)
end

-- The event that starts there, with the rate in its annotations; nil if nothing changes.
local function annotated_json(json, at, rate)
  local last, list, index = open(members, json, at)
  local place = index.annotations
  if not place then
    return extended(json, at, last, false, '"annotations":' .. with_rate("{}", 1, rate))
  end
  local from, to = list[place + 2], list[place + 3]
  local new = with_rate(json, from, rate)
  return new and sub(json, at, from - 1) .. new .. sub(json, to + 1, last)
end

-- Annotates an event in a record's own tables. Returns whether it has changed something.
local function annotate_table(event, rate)
  if event.annotations == nil then
    event.annotations = setmetatable({}, { type = MAP })
  end
  if not is_map(event.annotations) or event.annotations[RATE] == rate then
    return false
  end
  event.annotations[RATE] = rate
  return true
end

return annotated_json, annotate_table
