-- What rules look at: the attributes of the request whose event is being decided on. There is one
-- event at a time, so they are variables of this script and not a table for each.
local user, groups, verb, code, recorded_level
local is_resource, namespace, api_group, resource, subresource, object_name
local full_resource -- resource/subresource, or the resource alone
local path -- the decoded path of a request that is not for a resource

local byte, char, find = string.byte, string.char, string.find
local gsub, sub, concat = string.gsub, string.sub, table.concat
local next, pcall, tonumber, tostring, type = next, pcall, tonumber, tostring, type
local getmetatable, time = getmetatable, os.time

-- Fluent Bit puts the global flb_null in place of a null. Without one, nulls would be missing from
-- records that are changed. LuaJIT can make the value that Fluent Bit turns back into a null; where
-- it can't, the filter's setting enable_flb_null does.
if flb_null == nil then
  local found, buffer = pcall(require, "string.buffer")
  if found then
    local made, null = pcall(buffer.decode, "\3")
    if made and type(null) == "userdata" then
      flb_null = null
    end
  end
end

-- Fluent Bit says of each table whether it was an array or a map: an empty one would not tell.
local ARRAY = 1
local NOTHING = {}

local function is_array(value)
  if type(value) ~= "table" then
    return false
  end
  local meta = getmetatable(value)
  if meta and meta.type then
    return meta.type == ARRAY
  end
  return value[1] ~= nil
end

local function is_map(value)
  return type(value) == "table" and not is_array(value)
end

-- A field of a wrong type counts as empty.
local function text(value)
  return type(value) == "string" and value or ""
end

local function unescape(digits)
  return char(tonumber(digits, 16))
end

-- No query, percent-escapes resolved, nothing else cleaned.
local function path_of(uri)
  local query = find(uri, "?", 1, true)
  if query then
    uri = sub(uri, 1, query - 1)
  end
  return find(uri, "%", 1, true) and (gsub(uri, "%%(%x%x)", unescape)) or uri
end

local function read_attributes(event)
  local account = event.user
  user, groups = "", NOTHING
  if is_map(account) then
    user = text(account.username)
    if is_array(account.groups) then
      groups = account.groups
    end
  end
  if user == "" and #groups == 0 then
    user = nil -- authentication had failed: no rule with users or userGroups matches
  end
  verb, recorded_level = text(event.verb), text(event.level)
  local status = event.responseStatus
  code = is_map(status) and status.code or nil
  local ref = event.objectRef
  is_resource = is_map(ref)
  if is_resource then
    namespace, api_group = text(ref.namespace), text(ref.apiGroup)
    resource, subresource, object_name = text(ref.resource), text(ref.subresource), text(ref.name)
    full_resource = resource
    if subresource ~= "" then
      full_resource = resource .. "/" .. subresource
    elseif verb == "create" then
      object_name = "" -- the URL names none; the recorded name was copied from the body later
    end
  else
    path = path_of(text(event.requestURI))
  end
end

local function in_one_of(named)
  for i = 1, #groups do
    if named[text(groups[i])] then
      return true
    end
  end
  return false
end

local function is_one_of(elements)
  for i = 1, #elements do
    local element = elements[i]
    if not element.names or element.names[object_name] then
      local exact = element.exact
      if not exact or exact[full_resource] then
        return true
      elseif element.subresources[subresource] or element.resources[resource] then
        return true
      end
    end
  end
  return false
end

local EVERYTHING = { {} } -- all resources of an API group

-- Whether the resource is one of a rule's, which are a list for each API group; "*" is any group.
local function is_covered(resources)
  local own, any = resources[api_group], resources["*"]
  return (own and is_one_of(own)) or (any and is_one_of(any)) or false
end

local function starts_with(prefixes)
  for i = 1, #prefixes do
    local prefix = prefixes[i]
    if sub(path, 1, #prefix) == prefix then
      return true
    end
  end
  return false
end
