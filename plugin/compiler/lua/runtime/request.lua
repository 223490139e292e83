-- The request that a rule's conditions look at, recovered from its event: filter_engine/request.py in Lua.

local byte, char, find = string.byte, string.char, string.find
local gmatch, gsub, match, rep, sub = string.gmatch, string.gsub, string.match, string.rep, string.sub
local concat, insert, remove = table.concat, table.insert, table.remove
local next, pcall, tonumber, tostring, type = next, pcall, tonumber, tostring, type
local getmetatable, setmetatable, floor, time = getmetatable, setmetatable, math.floor, os.time

-- Fluent Bit puts the global flb_null in place of a null. Without it, nulls would be missing from records
-- that are changed. LuaJIT can make the value that Fluent Bit turns back into a null. If LuaJIT can't,
-- the filter's setting enable_flb_null does.
if flb_null == nil then
  local found, buffer = pcall(require, "string.buffer")
  if found then
    local made, null = pcall(buffer.decode, "\3")
    if made and type(null) == "userdata" then
      flb_null = null
    end
  end
end

local NOTHING = {}
local SLASH = 47
local MAX_TEXTS = 10000 -- groups of a user, or addresses; an event with more goes on undecided

-- In a table's metatable, Fluent Bit says whether the table was an array or a map.
local ARRAY = 1

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

local function text(value)
  return type(value) == "string" and value or ""
end

-- Whether a name stands anywhere in a value.
local function mentions(value, name)
  if type(value) == "string" then
    return find(value, name, 1, true)
  elseif type(value) == "table" then
    for key, inner in next, value do
      if mentions(key, name) or mentions(inner, name) then
        return true
      end
    end
  end
  return false
end

-- The types of fields. A value of another type counts as absent.
local TYPES = {
  text = text,
  texts = function(value)
    return is_array(value) and value or NOTHING
  end,
  integer = function(value)
    return type(value) == "number" and value or nil
  end,
}

-- The fields of an event that conditions read: the object that a field is in, its name in there, its type,
-- and its name in `request`. A test checks that these are the fields of filter_engine/fields.py, in that order.
-- The fields of an object stand together, and those of the event itself come first. MORE_FIELDS are those that
-- only some policies read.
local FIELDS = {
  { object = "", name = "level", type = "text", as = "level" },
  { object = "", name = "stage", type = "text", as = "stage" },
  { object = "", name = "requestURI", type = "text", as = "uri" },
  { object = "", name = "verb", type = "text", as = "verb" },
  { object = "user", name = "username", type = "text", as = "user" },
  { object = "user", name = "groups", type = "texts", as = "groups" },
  { object = "objectRef", name = "resource", type = "text", as = "resource" },
  { object = "objectRef", name = "namespace", type = "text", as = "namespace" },
  { object = "objectRef", name = "name", type = "text", as = "name" },
  { object = "objectRef", name = "apiGroup", type = "text", as = "api_group" },
  { object = "objectRef", name = "subresource", type = "text", as = "subresource" },
  { object = "responseStatus", name = "code", type = "integer", as = "code" },
}
for i = 1, #MORE_FIELDS do
  insert(FIELDS, MORE_FIELDS[i].object == "" and 1 or #FIELDS + 1, MORE_FIELDS[i])
end

-- There is one request at a time. Beside the fields it has `is_resource`, `path` (the decoded path of a request
-- that is not for a resource) and `full_resource` (resource/subresource, or the resource alone).
local request = {}

local function unescape(digits)
  return char(tonumber(digits, 16))
end

-- The path of a URL: no query, percent-escapes resolved, nothing else cleaned.
local function path_of(uri)
  local query = find(uri, "?", 1, true)
  if query then
    uri = sub(uri, 1, query - 1)
  end
  return find(uri, "%", 1, true) and (gsub(uri, "%%(%x%x)", unescape)) or uri
end

-- What a decoded path names: the API group, the resource, the namespace and the name of an object. Returns
-- nil if it is not the path of a resource. The rules are those of RequestInfoFactory in
-- pkg/endpoints/request/requestinfo.go of k8s.io/apiserver.
local function target_of(path)
  if not find(path, "^/*apis?/") then
    return nil
  end
  local first, last, parts = find(path, "[^/]"), #path, {}
  while byte(path, last) == SLASH do
    last = last - 1
  end
  for part in gmatch(sub(path, first, last) .. "/", "([^/]*)/") do
    parts[#parts + 1] = part
    if #parts == 8 then -- /apis/GROUP/VERSION/watch/namespaces/NAMESPACE/RESOURCE/NAME
      break
    end
  end
  local api_group = ""
  if remove(parts, 1) == "apis" then
    api_group = remove(parts, 1)
  end
  remove(parts, 1) -- the version
  if parts[1] == "watch" or parts[1] == "proxy" then
    remove(parts, 1)
  end
  if not parts[1] then
    return nil
  end
  local namespace = ""
  if parts[1] == "namespaces" and parts[2] then
    namespace = parts[2]
    if parts[3] and parts[3] ~= "status" and parts[3] ~= "finalize" then
      remove(parts, 1)
      remove(parts, 1)
    end
  end
  return api_group, parts[1], namespace, parts[2] or ""
end

-- kube-apiserver copies namespace and name from the body into objectRef after it has evaluated the policy. The
-- policy saw those in the URL.
local function forget_the_body()
  local api_group, resource, namespace, name = target_of(path_of(request.uri))
  if api_group ~= request.api_group or resource ~= request.resource then
    -- The event has lost its URL. The URL of a create never names an object.
    if request.verb == "create" and request.subresource == "" then
      request.name = ""
    end
    return
  end
  if namespace == "" then
    request.namespace = ""
  end
  if name == "" then
    request.name = ""
  end
end

-- Whether an event has a list that is too long to be looked at.
local function has_too_long_list(event)
  local user = event.user
  if is_map(user) and is_array(user.groups) and #user.groups > MAX_TEXTS then
    return true
  end
  return READS_ADDRESSES and is_array(event.sourceIPs) and #event.sourceIPs > MAX_TEXTS
end

-- Whether a map is an audit event that a policy can decide on. kube-apiserver always writes auditID,
-- verb and user, and an objectRef for a resource. A map that lacks one of them was changed on its way, and a
-- policy would see it without its user or object.
local function is_event(map)
  if type(map.auditID) ~= "string" or type(map.verb) ~= "string" then
    return false
  end
  local user = map.user
  if not is_map(user) and (user == nil or user ~= flb_null) then
    return false
  end
  return is_map(map.objectRef) or not target_of(path_of(text(map.requestURI)))
end

local function read_request(event)
  local name, object = "", event
  for i = 1, #FIELDS do
    local field = FIELDS[i]
    if field.object ~= name then
      name = field.object
      object = is_map(event[name]) and event[name] or NOTHING
    end
    request[field.as] = TYPES[field.type](object[field.name])
  end
  if request.user == "" and #request.groups == 0 then
    request.user = nil -- authentication has failed: no rule with users or userGroups matches
  end
  request.is_resource = is_map(event.objectRef)
  if not request.is_resource then
    request.path = path_of(request.uri)
    return
  end
  local has_body = request.verb == "create" or request.verb == "update"
  if NAMES_OBJECTS and has_body and (request.namespace ~= "" or request.name ~= "") then
    forget_the_body()
  end
  request.full_resource = request.resource
  if request.subresource ~= "" then
    request.full_resource = request.resource .. "/" .. request.subresource
  end
end

-- Functions that the conditions of rules use.

local rules = {}

-- LuaJIT bounds the size of a function, so a large policy is written as several functions.
local function run(part)
  part()
end

local function in_one_of(named)
  local groups = request.groups
  for i = 1, #groups do
    if named[text(groups[i])] then
      return true
    end
  end
  return false
end

local EVERYTHING = { {} } -- all resources of an API group

-- Adds one element of `resources` to those of its API group.
local function add(resources, group, element)
  local elements = resources[group] or {}
  elements[#elements + 1] = element
  resources[group] = elements
end

local function is_one_of(elements)
  for i = 1, #elements do
    local element = elements[i]
    if not element.names or element.names[request.name] then
      local exact = element.exact
      if not exact or exact[request.full_resource] then
        return true
      elseif element.subresources[request.subresource] or element.resources[request.resource] then
        return true
      end
    end
  end
  return false
end

-- Whether a rule covers the resource. A rule's resources are a list for each API group; "*" is any group.
local function is_covered(resources)
  local own, any = resources[request.api_group], resources["*"]
  return (own and is_one_of(own)) or (any and is_one_of(any)) or false
end

local function starts_with(prefixes)
  local path = request.path
  for i = 1, #prefixes do
    local prefix = prefixes[i]
    if sub(path, 1, #prefix) == prefix then
      return true
    end
  end
  return false
end
