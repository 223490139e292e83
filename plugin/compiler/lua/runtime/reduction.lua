-- A kept event is reduced to what the API server would have recorded at its rule's level. An event
-- that was recorded at that level or below loses nothing but managed fields.

local RANK = { None = 0, Metadata = 1, Request = 2, RequestResponse = 3 }
local BODIES = { responseObject = 3, requestObject = 2 } -- the least rank that records them
-- Annotations with the JSON patch that an admission webhook made of the body, recorded from Request up.
local PATCHES = "patch.webhook.admission.k8s.io/"

local function is_patch(key)
  return type(key) == "string" and sub(key, 1, #PATCHES) == PATCHES
end

-- Whether an event was recorded above a rule's level. If its level is none at all, that is not known.
local function is_recorded_above(event, rule)
  local recorded = RANK[event.level]
  return not recorded or RANK[rule.level] < recorded
end

-- Whether an event loses bodies or patches at a rule's level, if it has them.
local function is_lowered(event, rule)
  return rule.level ~= "RequestResponse" and is_recorded_above(event, rule)
end

-- In JSON text, removed members are cut out, and the level is replaced. The rest keeps its bytes.

local failed -- whether something in the event at hand can't be taken apart

-- The map or array that starts there, with each member or element as `edit` says: a new text, false to
-- remove it, nil to leave it. Returns the new text and how many members or elements it has; nil if
-- nothing changes.
local function rewrite(json, at, edit)
  local is_object = byte(json, at) == OPEN_MAP
  if not is_object and byte(json, at) ~= OPEN_ARRAY then
    return nil
  end
  local last, list = open(is_object and members or elements, json, at)
  if not last then
    failed = true
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
    return sub(json, at, at) .. concat(kept, ",") .. sub(json, last, last), #kept
  end
end

-- Applies an edit to the value of one key. Returns nil if the value is not a map.
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
  local _, list, index = open(members, json, at)
  local is_table = read(json, list, index, "kind", "text") == "Table"
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

-- Annotations without patches; false if no others are left.
local function without_patches(json, at)
  if byte(json, at) ~= OPEN_MAP then
    return nil
  end
  local new, left = rewrite(json, at, function(key)
    if is_patch(key) then
      return false
    end
  end)
  if new and left == 0 then
    return false
  end
  return new
end

-- The event that starts there, reduced; nil if nothing changes. The second result is true for an event that
-- can't be reduced, because a list in it is too long.
local function reduce_json(json, at, last, event, rule)
  local rank, recorded = RANK[rule.level], RANK[event.level]
  local is_above = is_recorded_above(event, rule)
  local strips = rule.omit_managed_fields and not lacks(json, at, last, "managedFields")
  if not strips and (rank == 3 or not is_above) then
    return nil
  end
  failed = false
  local new = rewrite(json, at, function(key, first)
    local least = BODIES[key]
    if is_above then
      if key == "level" and recorded then
        return quoted(rule.level)
      elseif key == "annotations" and rank < 2 then
        return without_patches(json, first)
      elseif least and rank < least then
        return false
      end
    end
    if least and strips and not (key == "requestObject" and event.verb == "patch") then
      return strip_body(json, first)
    end
  end)
  if failed then
    return nil, true
  end
  return new
end

-- Reduction in a record's own tables. These functions return whether they have changed something.

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

local function drop_patches(event)
  if not is_map(event.annotations) then
    return false
  end
  local left, changed = {}, false
  for key in next, event.annotations do
    if is_patch(key) then
      changed = true
    else
      left[#left + 1] = key
    end
  end
  if not changed then
    return false
  elseif #left == 0 then
    event.annotations = nil
    return true
  end
  for key in next, event.annotations do
    if is_patch(key) then
      event.annotations[key] = nil -- a field that is there may be cleared on the way
    end
  end
  return true
end

local function is_too_long(body)
  return is_map(body)
    and (is_array(body.items) and #body.items > MAX_ITEMS or is_array(body.rows) and #body.rows > MAX_ITEMS)
end

-- As for reduce_json, the second result is true for an event that can't be reduced.
local function reduce_table(event, rule)
  local rank, recorded, changed = RANK[rule.level], RANK[event.level], false
  local is_above = is_recorded_above(event, rule)
  local stripped = {} -- the bodies that stay and lose their managed fields
  for body, least in next, BODIES do
    local stays = rule.omit_managed_fields and not (is_above and rank < least)
    if stays and not (body == "requestObject" and event.verb == "patch") then
      stripped[#stripped + 1] = event[body]
    end
  end
  for i = 1, #stripped do
    if is_too_long(stripped[i]) and mentions(event, "managedFields") then
      return false, true
    end
  end
  if is_above then
    if recorded then
      event.level = rule.level
      changed = true
    end
    for body, least in next, BODIES do
      if event[body] ~= nil and rank < least then
        event[body] = nil
        changed = true
      end
    end
    if rank < 2 then
      changed = drop_patches(event) or changed
    end
  end
  for i = 1, #stripped do
    changed = strip_body_table(stripped[i]) or changed
  end
  return changed
end

return reduce_json, reduce_table, is_lowered
