-- What the conditions of a FilterPolicy need beside patterns.

-- Whether a number is in one of the ranges that are given as their first and last numbers.
local function is_between(ranges, number)
  if not number or number % 1 ~= 0 then
    return false
  end
  for i = 1, #ranges, 2 do
    if number >= ranges[i] and number <= ranges[i + 1] then
      return true
    end
  end
  return false
end

-- Whether each of these annotations is there, and its value matches.
local function are_annotated(wanted)
  for i = 1, #wanted do
    local value = request[wanted[i].field]
    if value == "" or not matches(wanted[i].values, value) then
      return false
    end
  end
  return true
end

-- Adds subresources of some resources to an element of `resources`.
local function add_pairs(element, pairs)
  element[#element + 1] = pairs
end

local function covers(element)
  if not element.resources or (element.families and matches(element.families, request.resource)) then
    return true
  elseif request.subresource == "" then
    return matches(element.resources, request.resource)
  end
  for i = 1, #element do
    local pairs = element[i]
    if matches(pairs.subresources, request.subresource) and matches(pairs.resources, request.resource) then
      return true
    end
  end
  return false
end

-- Whether one of the elements of `resources` covers the resource.
local function one_covers(elements)
  for i = 1, #elements do
    local element = elements[i]
    if
      matches(element.group, request.api_group)
      and (not element.names or matches(element.names, request.name))
      and covers(element)
    then
      return true
    end
  end
  return false
end

-- Whether the user is a service account of the request's namespace, or of one whose name begins with it.
local function is_in_own_namespace(by_prefix)
  local own = request.user and request.user:match("^system:serviceaccount:([^:]*)")
  local namespace = request.namespace
  if not own or not request.is_resource or namespace == "" then
    return false
  end
  return own == namespace or by_prefix and own:sub(1, #namespace) == namespace
end

-- Whether one of the exceptions of a rule is met.
local function is_excepted(exceptions)
  for i = 1, #exceptions do
    if exceptions[i]() then
      return true
    end
  end
  return false
end
