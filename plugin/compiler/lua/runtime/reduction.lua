-- --reduce: kept events are reduced to what the API server would have recorded at their rule's
-- level. Never the other way: an event recorded at a lower level stays there.

local RANK = { None = 0, Metadata = 1, Request = 2, RequestResponse = 3 }
local BODIES = { responseObject = 3, requestObject = 2 } -- the least rank that records them

-- In JSON text, only what is taken out is cut out, and the level replaced. The rest keeps its bytes.

-- The map or array that starts there, with each member or element as `edit` says: a new text, false to
-- take it out, nil to leave it. Returns nil where all is left.
local function rewrite(json, at, edit)
  local is_object = byte(json, at) == OPEN_MAP
  if not is_object and byte(json, at) ~= OPEN_ARRAY then
    return nil
  end
  local last, list
  if is_object then
    last, list = members(json, at, MAX_DEPTH, {})
  else
    last, list = elements(json, at, MAX_DEPTH, {})
  end
  if not last then
    return nil
  end
  local kept, changed = {}, false
  local step = is_object and 4 or 2
  for i = 1, #list, step do
    local from, first, stop = list[i + step - 3], list[i + step - 2], list[i + step - 1]
    if not is_object then
      from = first
    end
    local new = edit(is_object and list[i], first, stop)
    changed = changed or new ~= nil
    if new then
      kept[#kept + 1] = sub(json, from, first - 1) .. new
    elseif new == nil then
      kept[#kept + 1] = sub(json, from, stop)
    end
  end
  if changed then
    return sub(json, at, at) .. concat(kept, ",") .. sub(json, last, last)
  end
end

-- Applies an edit to the value of one key. Returns nil where the value is no map.
local function of_key(wanted, edit)
  return function(json, at)
    if byte(json, at) ~= OPEN_MAP then
      return nil
    end
    return rewrite(json, at, function(key, first)
      if key == wanted then
        return edit(json, first)
      end
    end)
  end
end

local function to_elements(edit)
  return function(json, at)
    if byte(json, at) ~= OPEN_ARRAY then
      return nil
    end
    return rewrite(json, at, function(_, first)
      return edit(json, first)
    end)
  end
end

local strip_metadata = of_key("managedFields", function()
  return false
end)
local strip_object = of_key("metadata", strip_metadata)
local strip_items = to_elements(strip_object)
local strip_rows = to_elements(of_key("object", strip_object))

local function strip_body(json, at)
  if byte(json, at) ~= OPEN_MAP then
    return nil
  end
  local _, list, index = members(json, at, MAX_DEPTH, {})
  local is_table = plain_value(json, list, index.kind) == "Table"
  return rewrite(json, at, function(key, first)
    if key == "metadata" then
      return strip_metadata(json, first)
    elseif key == "items" then
      return strip_items(json, first)
    elseif key == "rows" and is_table then
      return strip_rows(json, first)
    end
  end)
end

-- The event that is there, reduced; nil where nothing changes.
local function reduce_json(json, at, last, event, rule)
  local rank, level = RANK[rule.level], RANK[event.level]
  local reduces = level and rank < level
  local strips = rule.omit_managed_fields and find(sub(json, at, last), "managedFields", 1, true)
  if rank == 3 and not strips then
    return nil
  end
  return rewrite(json, at, function(key, first)
    local least = BODIES[key]
    if least and rank < least then
      return false
    elseif key == "level" and reduces then
      return quoted(rule.level)
    elseif least and strips and not (key == "requestObject" and event.verb == "patch") then
      return strip_body(json, first)
    end
  end)
end

-- In a record's own tables. They return whether they have changed something.

local function strip_table(value)
  local metadata = is_map(value) and value.metadata
  if is_map(metadata) and metadata.managedFields ~= nil then
    metadata.managedFields = nil
    return true
  end
  return false
end

local function strip_body_table(body)
  if not is_map(body) then
    return false
  end
  local changed = strip_table(body)
  if is_array(body.items) then
    for i = 1, #body.items do
      changed = strip_table(body.items[i]) or changed
    end
  end
  if body.kind == "Table" and is_array(body.rows) then
    for i = 1, #body.rows do
      changed = (is_map(body.rows[i]) and strip_table(body.rows[i].object)) or changed
    end
  end
  return changed
end

local function reduce_table(event, rule)
  local rank, level, changed = RANK[rule.level], RANK[event.level], false
  if level and rank < level then
    event.level = rule.level
    changed = true
  end
  for body, least in next, BODIES do
    if event[body] ~= nil then
      if rank < least then
        event[body] = nil
        changed = true
      elseif rule.omit_managed_fields and not (body == "requestObject" and event.verb == "patch") then
        changed = strip_body_table(event[body]) or changed
      end
    end
  end
  return changed
end
