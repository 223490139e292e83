-- --split: a record with a list of events becomes one record for each event that is left. `parts` are these records
-- while they are put together, from the inside out. They may be maps or text.

-- What the records repeat has at most so many times the bytes of the list. A record that would exceed this stays
-- whole.
local MOST_REPEATED = 3
local OF_THE_LIST = { kind = true, apiVersion = true, metadata = true, items = true }

-- Of the record at hand: the size of its list, nil before one is found; the bytes that parts repeat.
local list_size, repeated

local function begin_record()
  list_size, repeated = nil, 0
end

-- About how many bytes a value has in MessagePack.
local function weight(value)
  if type(value) == "string" then
    return #value + 2
  elseif type(value) ~= "table" then
    return 5
  end
  local sum = 2
  for key, inner in next, value do
    sum = sum + weight(key) + weight(inner)
  end
  return sum
end

-- No parts yet, of a list that is given as its size or its table.
local function parts_of(list)
  if not list_size then
    list_size = type(list) == "table" and weight(list) or list
  end
  return {}
end

-- Whether parts may repeat so many bytes.
local function is_affordable(parts, size)
  repeated = repeated + (#parts - 1) * size
  return repeated <= MOST_REPEATED * list_size
end

-- The same parts within a value around them, which has so many more bytes.
local function within(parts, size, put)
  if is_affordable(parts, size) then
    for i = 1, #parts do
      parts[i] = put(parts[i])
    end
  end
  return parts
end

local function copy(map)
  local new = {}
  for key, value in next, map do
    new[key] = value
  end
  return setmetatable(new, getmetatable(map))
end

-- For each part, a map with this part under a key.
local function with_key(parts, map, key)
  return within(parts, weight(map) - weight(map[key]), function(part)
    local new = copy(map)
    new[key] = part
    return new
  end)
end

-- Adds what an agent has put into an EventList to each of its events.
local function with_fields(parts, map)
  local added, is_any = {}, false
  for key, value in next, map do
    if not OF_THE_LIST[key] then
      added[key] = value
      is_any = true
    end
  end
  if not is_any then
    return parts
  end
  return within(parts, weight(added), function(part)
    if not is_map(part) then
      return part
    end
    part = copy(part)
    for key, value in next, added do
      if part[key] == nil then
        part[key] = value
      end
    end
    return part
  end)
end

-- The same in JSON text, with the EventList's members.
local function with_members(parts, json, list, index)
  local keys, added, size = {}, {}, 0
  for i = 1, #list, 4 do
    local key = list[i]
    if not OF_THE_LIST[key] and index[key] == i then
      keys[#keys + 1], added[#added + 1] = key, sub(json, list[i + 1], list[i + 3])
      size = size + #added[#added] + 1
    end
  end
  if #keys == 0 then
    return parts
  end
  return within(parts, size, function(part)
    if byte(part, 1) ~= OPEN_MAP then
      return part
    end
    local last, own, own_index = open(members, part, 1)
    if not last then
      return part
    end
    local pieces = { #own > 0 and sub(part, 2, last - 1) or nil }
    for i = 1, #keys do
      if not own_index[keys[i]] then
        pieces[#pieces + 1] = added[i]
      end
    end
    return "{" .. concat(pieces, ",") .. "}"
  end)
end

-- Whether parts can go on as records. If so, they are then an array as Fluent Bit wants it.
local function can_split(parts)
  if repeated > MOST_REPEATED * list_size then
    return false
  end
  for i = 1, #parts do
    if not is_map(parts[i]) then
      return false -- Fluent Bit would let the whole chunk go on unfiltered
    end
  end
  setmetatable(parts, { type = ARRAY })
  return true
end
