-- Finds the events of a record, decides on each, and puts together what is left.

local PATH = EVENT_PATH or {}
local PATH_END = #PATH + 1
local ITEM = 0 -- in place of a step: an element of "items", which is an event or not

local undecided_items = 0 -- elements of lists that stayed undecided
-- Events of the record at hand that were reduced, and those that could not be changed.
local pending_reductions, pending_failures = 0, 0
local not_split = 0 -- records with a list of events that had to stay whole

-- The rule that decides on an event, and whether the event is kept.
local function decide(event)
  read_request(event)
  local rule = NO_RULE
  for i = 1, #rules do
    if rules[i].matches() then
      rule = rules[i]
      break
    end
  end
  local keep = rule.keeps and not rule.omit_stages[request.stage]
  if keep and rule.sample and not is_in_sample(event, rule) then
    keep = false
    rule.left_out = rule.left_out + 1
  end
  if keep then
    rule.kept = rule.kept + 1
  else
    rule.dropped = rule.dropped + 1
  end
  return rule, keep
end

-- LuaJIT compiles one path for each rule that has matched, and then looks for the right one in turn. With many
-- rules, its interpreter is several times as fast.
local MANY_RULES = 40
if jit and #rules > MANY_RULES then
  jit.off(decide)
end

-- With SPLIT, a function that has found a list of events also returns its parts: for each event that is left, the
-- value that the function was given, with this event in place of the list.

-- Adds what is left of an element of a list to the parts of the list: the element, or the parts of a list in it.
local function collect(parts, element, inner)
  if not inner then
    parts[#parts + 1] = element
    return
  end
  for i = 1, #inner do
    parts[#parts + 1] = inner[i]
  end
end

-- Events in JSON text. These functions return a fate, the new text of the value that starts there (nil unless
-- the fate is CHANGED), where that value ends (nil if they did not look), and parts.

local follow_json, item_json

local function spliced(json, first, from, to, new, last)
  return sub(json, first, from - 1) .. new .. sub(json, to + 1, last)
end

-- The array starts at `first`, and ends at `limit` or before.
local function each_json(json, first, limit, step)
  if lacks(json, first, limit, "auditID") then
    return NO_EVENT
  end
  local last, list = open(elements, json, first)
  if not last then
    return list
  end
  local changes, changed, untouched = {}, false, 0 -- false where an element is dropped
  local parts = SPLIT and parts_of(last - first) or nil
  for i = 1, #list, 2 do
    local decide_on_element = step == ITEM and item_json or follow_json
    local fate, new, _, inner = decide_on_element(json, list[i], list[i + 1], step)
    if fate >= UNDECIDED then
      untouched = untouched + 1
    elseif fate == DROP or fate == CHANGED then
      changes[i] = new or false
      changed = true
    end
    if parts and fate ~= DROP then
      collect(parts, new or sub(json, list[i], list[i + 1]), inner)
    end
  end
  if 2 * untouched == #list then
    return NO_EVENT, nil, last
  end
  undecided_items = undecided_items + untouched
  if not changed then
    return KEEP, nil, last, parts
  end
  local kept = {}
  for i = 1, #list, 2 do
    if changes[i] ~= false then
      kept[#kept + 1] = changes[i] or sub(json, list[i], list[i + 1])
    end
  end
  if #kept == 0 then
    return DROP, nil, last
  end
  return CHANGED, "[" .. concat(kept, ",") .. "]", last, parts
end

-- Decides on a map that may be an event. Returns nil if it is not an event.
local function event_in_json(json, first, last, list, index)
  local event, is_too_long = event_of(json, list, index)
  if is_too_long then
    return TOO_MANY, nil, last
  elseif not is_event(event) then
    return nil
  end
  local rule, keep = decide(event)
  if not keep then
    return DROP, nil, last
  end
  if CHANGES_EVENTS then
    local new, failed, is_reduction = change_json(json, first, last, event, rule)
    pending_failures = pending_failures + (failed and 1 or 0)
    pending_reductions = pending_reductions + (is_reduction and 1 or 0)
    if new then
      return CHANGED, new, last
    end
  end
  return KEEP, nil, last
end

-- Nobody sends lists of events within lists of events.
function item_json(json, first)
  if byte(json, first) ~= OPEN_MAP then
    return NO_EVENT
  end
  local last, list, index = open(members, json, first)
  if not last then
    return list
  end
  local fate, new = event_in_json(json, first, last, list, index)
  return fate or NO_EVENT, new
end

-- A map that is an event, or a list of events as the audit webhook sends it.
local function events_in_json(json, first, last, list, index)
  local fate, new = event_in_json(json, first, last, list, index)
  if fate then
    return fate, new, last
  end
  local items = index.items
  if not items or byte(json, list[items + 2]) ~= OPEN_ARRAY then
    return NO_EVENT, nil, last
  end
  local _, parts
  fate, new, _, parts = each_json(json, list[items + 2], list[items + 3], ITEM)
  parts = parts and with_members(parts, json, list, index)
  return fate, new and spliced(json, first, list[items + 2], list[items + 3], new, last), last, parts
end

-- Follows EVENT_PATH from one of its steps, in a string that may be JSON text. Returns a fate, the new string and
-- parts.
local function follow_text(value, step)
  local start = sub(value, 1, 3) == "\239\187\191" and 4 or 1 -- a byte order mark
  local first, found = solid(value, start)
  if found ~= OPEN_MAP and found ~= OPEN_ARRAY then
    return NO_EVENT
  end
  -- This may be text within a text: the state of the outer text is needed again.
  local json, clean, to, plain, to_plain = run_json, clean_from, clean_to, plain_from, plain_to
  local fate, new, last, parts = follow_json(value, first, #value, step)
  run_json, clean_from, clean_to, plain_from, plain_to = json, clean, to, plain, to_plain
  if last and not find(value, "^[ \t\r\n]*$", last + 1) then
    return BROKEN
  end
  parts = parts and within(parts, #value - (last - first), function(part)
    return spliced(value, 1, first, last, part, #value)
  end)
  return fate, new and spliced(value, 1, first, last, new, #value), parts
end

-- The value starts at `first`, and ends at `limit` or before.
function follow_json(json, first, limit, step)
  local found = byte(json, first)
  if found == QUOTE then
    local last = end_of_string(json, first)
    local inner = string_at(json, first, last)
    if not is_utf8(inner) then
      return BROKEN
    end
    local fate, new, parts = follow_text(inner, step)
    return fate, new and quoted(new), last, parts and within(parts, 0, quoted)
  end
  local key = PATH[step]
  if key == EACH then
    if found == OPEN_ARRAY then
      return each_json(json, first, limit, step + 1)
    end
    return NO_EVENT
  elseif found ~= OPEN_MAP then
    return NO_EVENT
  end
  local last, list, index = open(members, json, first)
  if not last then
    return list
  elseif key == nil then
    return events_in_json(json, first, last, list, index)
  end
  local at = index[key]
  if not at then
    return NO_EVENT, nil, last
  end
  local from, to = list[at + 2], list[at + 3]
  local fate, new, _, parts = follow_json(json, from, to, step + 1)
  parts = parts and within(parts, last - first - (to - from), function(part)
    return spliced(json, first, from, to, part, last)
  end)
  return fate, new and spliced(json, first, from, to, new, last), last, parts
end

-- Events in a record's tables. These functions return a fate, for CHANGED the value to put in place of the one
-- given, and parts. Tables are changed in place: for a record that is kept as it is, Fluent Bit has its bytes.

local follow, item

local function each(array, step)
  local size, kept, changes, untouched = #array, 0, false, 0
  if size > MAX_ITEMS then
    return mentions(array, "auditID") and TOO_MANY or NO_EVENT
  end
  local parts = SPLIT and parts_of(array) or nil
  for i = 1, size do
    local decide_on_element = step == ITEM and item or follow
    local fate, new, inner = decide_on_element(array[i], step)
    if fate >= UNDECIDED then
      untouched = untouched + 1
    end
    changes = changes or fate == DROP or fate == CHANGED
    if fate ~= DROP then
      kept = kept + 1
      array[kept] = fate == CHANGED and new or array[i]
      if parts then
        collect(parts, array[kept], inner)
      end
    end
  end
  for i = kept + 1, size do
    array[i] = nil
  end
  if untouched == size then
    return NO_EVENT
  end
  undecided_items = undecided_items + untouched
  if not changes then
    return KEEP, nil, parts
  elseif kept == 0 then
    return DROP
  end
  return CHANGED, array, parts
end

local function under(map, key, fate, new, parts)
  parts = parts and with_key(parts, map, key)
  if fate == CHANGED then
    map[key] = new
    return CHANGED, map, parts
  end
  return fate, nil, parts
end

-- Decides on a map that may be an event. Returns nil if it is not an event.
local function event_in(map)
  if has_too_long_list(map) then
    return TOO_MANY
  elseif not is_event(map) then
    return nil
  end
  local rule, keep = decide(map)
  if not keep then
    return DROP
  end
  if CHANGES_EVENTS then
    local changed, failed, is_reduction = change_table(map, rule)
    pending_failures = pending_failures + (failed and 1 or 0)
    pending_reductions = pending_reductions + (is_reduction and 1 or 0)
    if changed then
      return CHANGED, map
    end
  end
  return KEEP
end

function item(value)
  return is_map(value) and event_in(value) or NO_EVENT, value
end

-- A list of events as the audit webhook sends it.
local function list_in(map)
  local fate, array, parts = each(map.items, ITEM)
  if fate == CHANGED then
    map.items = array
    array = map
  end
  return fate, array, parts and with_fields(parts, map)
end

local function events_in(map)
  local fate, new = event_in(map)
  if fate then
    return fate, new
  elseif is_array(map.items) then
    return list_in(map)
  end
  return NO_EVENT
end

function follow(value, step)
  if type(value) == "string" then
    return follow_text(value, step)
  end
  local key = PATH[step]
  if key == EACH then
    if is_array(value) then
      return each(value, step + 1)
    end
    return NO_EVENT
  elseif not is_map(value) then
    return NO_EVENT
  elseif key == nil then
    return events_in(value)
  elseif value[key] == nil then
    return NO_EVENT
  end
  return under(value, key, follow(value[key], step + 1))
end

local function fate_of(record)
  if EVENT_PATH then
    return follow(record, 1)
  end
  local fate, new, parts = events_in(record)
  if fate == NO_EVENT and record.log ~= nil then
    fate, new, parts = under(record, "log", follow(record.log, 1))
  end
  if fate == NO_EVENT and record.message ~= nil then
    fate, new, parts = under(record, "message", follow(record.message, 1))
  end
  return fate, new, parts
end

-- Whether Fluent Bit can write a changed record without harm to the rest of it. Numbers are floating point
-- here: larger integers would lose digits.
local function survives(value)
  local kind = type(value)
  if kind == "number" then
    return value > -9007199254740992 and value < 9007199254740992
  elseif kind ~= "table" then
    return true
  end
  local meta = getmetatable(value)
  if next(value) == nil and not (meta and meta.type) then
    return false -- {} or []?
  end
  for key, item in next, value do
    if not survives(key) or not survives(item) then
      return false
    end
  end
  return true
end

-- The fate of a record. For SEVERAL, the second result is the records. For KEEP, it is whether the record should
-- have changed.
local function decide_on(record)
  if SPLIT then
    begin_record()
  end
  local fate, _, parts = fate_of(record)
  local is_split = parts and can_split(parts)
  local can_change = fate ~= CHANGED and not is_split or flb_null ~= nil and survives(record)
  if parts and not (is_split and can_change) then
    not_split = not_split + 1
  end
  if not can_change then
    return KEEP, fate == CHANGED
  elseif is_split then
    return SEVERAL, parts
  end
  return fate
end
