-- Which events of a rule's sample are kept: filter_engine/sampling.py in Lua. The choice hangs on the MD5
-- (RFC 1321) of the auditID. A rate is kept as `sample`, the least hash that is not in the sample.

-- Operations on 32 bits. LuaJIT has them in `bit`. Plain Lua 5.1 has not, and takes its time.
local has_bits, bits = pcall(require, "bit")
local band, bnot, bor, bxor, rol

if has_bits then
  band, bnot, bor, bxor, rol = bits.band, bits.bnot, bits.bor, bits.bxor, bits.rol
else
  local function each_bit(left, right, of_bits)
    local result, place = 0, 1
    left, right = left % 2 ^ 32, right % 2 ^ 32
    for _ = 1, 32 do
      local one, other = left % 2, right % 2
      result = result + place * of_bits(one, other)
      left, right, place = (left - one) / 2, (right - other) / 2, 2 * place
    end
    return result
  end
  local function both(one, other)
    return one * other
  end
  local function different(one, other)
    return (one + other) % 2
  end
  function band(left, right)
    return each_bit(left, right, both)
  end
  function bxor(left, right)
    return each_bit(left, right, different)
  end
  function bnot(value)
    return 2 ^ 32 - 1 - value % 2 ^ 32
  end
  function bor(left, right)
    return bnot(band(bnot(left), bnot(right)))
  end
  function rol(value, by)
    value = value % 2 ^ 32
    local high = floor(value / 2 ^ (32 - by))
    return (value * 2 ^ by) % 2 ^ 32 + high
  end
end

local SINES, SHIFTS = {}, {}
for i = 1, 64 do
  SINES[i] = floor(math.abs(math.sin(i)) * 2 ^ 32)
end
for round, shifts in next, { { 7, 12, 17, 22 }, { 5, 9, 14, 20 }, { 4, 11, 16, 23 }, { 6, 10, 15, 21 } } do
  for i = 1, 16 do
    SHIFTS[16 * round + i - 16] = shifts[(i - 1) % 4 + 1]
  end
end

local words = {} -- of the block at hand

-- The first two of the four words of the MD5 of a string, as numbers of any sign.
local function md5(value)
  local size = 8 * #value
  local length = {}
  for i = 1, 8 do
    length[i] = char(size % 256)
    size = floor(size / 256)
  end
  value = value .. "\128" .. rep("\0", (55 - #value) % 64) .. concat(length)
  local a, b, c, d = 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476
  for block = 1, #value, 64 do
    for i = 0, 15 do
      local first, second, third, fourth = byte(value, block + 4 * i, block + 4 * i + 3)
      words[i] = first + 2 ^ 8 * second + 2 ^ 16 * third + 2 ^ 24 * fourth
    end
    local old_a, old_b, old_c, old_d = a, b, c, d
    for i = 0, 63 do
      local mixed, word
      if i < 16 then
        mixed, word = bxor(d, band(b, bxor(c, d))), i
      elseif i < 32 then
        mixed, word = bxor(c, band(d, bxor(b, c))), (5 * i + 1) % 16
      elseif i < 48 then
        mixed, word = bxor(b, bxor(c, d)), (3 * i + 5) % 16
      else
        mixed, word = bxor(c, bor(b, bnot(d))), 7 * i % 16
      end
      local sum = (a + mixed + SINES[i + 1] + words[word]) % 2 ^ 32
      a, d, c, b = d, c, b, (b + rol(sum, SHIFTS[i + 1])) % 2 ^ 32
    end
    a, b, c, d = (a + old_a) % 2 ^ 32, (b + old_b) % 2 ^ 32, (c + old_c) % 2 ^ 32, (d + old_d) % 2 ^ 32
  end
  return a, b
end

local function byte_of(word, place)
  return floor(word / 2 ^ (8 * place)) % 256
end

-- The first 13 hexadecimal digits of the MD5 of an auditID.
local function hash_of(audit_id)
  local a, b = md5(audit_id)
  return ("%02x%02x%02x%02x%02x%02x%x"):format(
    byte_of(a, 0), byte_of(a, 1), byte_of(a, 2), byte_of(a, 3), byte_of(b, 0), byte_of(b, 1),
    floor(byte_of(b, 2) / 16)
  )
end

local function is_in_sample(event, rule)
  return hash_of(event.auditID) < rule.sample
end

return is_in_sample
