-- Sets of IP addresses: filter_engine/networks.py in Lua. An address is the string of its 16 bytes in IPv6. That
-- of IPv4 is its mapped address (RFC 4291, 2.5.5.2), as kube-apiserver may record it.

local MAPPED = rep("\0", 10) .. "\255\255"
local LONGEST_ADDRESS = 45 -- ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255
local MOST_KNOWN = 1000

local function octet(digits)
  local number = tonumber(digits, 10)
  if (byte(digits) == 48 and digits ~= "0") or number > 255 then
    return nil
  end
  return number
end

-- The four bytes of an IPv4 address; nil for other text. As for inet_pton, there are no leading zeros.
local function ipv4(value)
  local a, b, c, d = match(value, "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
  if not a then
    return nil
  end
  a, b, c, d = octet(a), octet(b), octet(c), octet(d)
  return a and b and c and d and char(a, b, c, d) or nil
end

-- The bytes of the numbers between colons; nil if there is something else.
local function hextets(value)
  local bytes = ""
  if value == "" then
    return bytes
  end
  for digits in gmatch(value .. ":", "([^:]*):") do
    if not find(digits, "^%x%x?%x?%x?$") then
      return nil
    end
    local number = tonumber(digits, 16)
    bytes = bytes .. char(floor(number / 256), number % 256)
  end
  return bytes
end

-- The bytes of an IPv6 address; nil for other text. A zone (RFC 4007) does not count.
local function ipv6(value)
  local zone = find(value, "%", 1, true)
  if zone then
    if zone == #value or find(value, "[%%/]", zone + 1) then
      return nil
    end
    value = sub(value, 1, zone - 1)
  end
  if #value > LONGEST_ADDRESS then
    return nil
  end
  local front, back = match(value, "^(.*:)([^:]*%.[^:]*)$")
  if front then
    local bytes = ipv4(back)
    if not bytes then
      return nil
    end
    value = front .. ("%x:%x"):format(256 * byte(bytes, 1) + byte(bytes, 2), 256 * byte(bytes, 3) + byte(bytes, 4))
  end
  local gap = find(value, "::", 1, true)
  if not gap then
    local bytes = hextets(value)
    return bytes and #bytes == 16 and bytes or nil
  end
  local left, right = hextets(sub(value, 1, gap - 1)), hextets(sub(value, gap + 2))
  local missing = left and right and 16 - #left - #right
  return missing and missing >= 2 and left .. rep("\0", missing) .. right or nil
end

local known, known_count = {}, 0 -- the addresses of texts; false for text that is not an address

local function address_of(value)
  local address = known[value]
  if address == nil then
    local bytes = ipv4(value)
    address = bytes and MAPPED .. bytes or ipv6(value) or false
    if #value <= LONGEST_ADDRESS then
      if known_count == MOST_KNOWN then
        known, known_count = {}, 0
      end
      known[value], known_count = address, known_count + 1
    end
  end
  return address
end

-- The first bits of an address, filled up with zeros to a whole byte.
local function first_bits(address, length)
  local whole, more = floor(length / 8), length % 8
  if more == 0 then
    return sub(address, 1, whole)
  end
  local last = byte(address, whole + 1)
  return sub(address, 1, whole) .. char(last - last % 2 ^ (8 - more))
end

-- A set of networks, which are given as the keys of a table, such as "10.0.0.0/8".
local function networks(values)
  local set, by_length = {}, {}
  for value in next, values do
    local address, length = match(value, "^(.*)/(%d+)$")
    length = tonumber(length) + (find(address, ":", 1, true) and 0 or 96)
    if not by_length[length] then
      by_length[length] = { length = length, firsts = {} }
      set[#set + 1] = by_length[length]
    end
    by_length[length].firsts[first_bits(address_of(address), length)] = true
  end
  return set
end

local function is_inside(set, address)
  for i = 1, #set do
    if set[i].firsts[first_bits(address, set[i].length)] then
      return true
    end
  end
  return false
end

-- Whether there are addresses, and each is in one of the networks.
local function are_inside(set, addresses)
  for i = 1, #addresses do
    local address = address_of(text(addresses[i]))
    if not address or not is_inside(set, address) then
      return false
    end
  end
  return #addresses > 0
end

return networks, are_inside
