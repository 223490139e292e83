-- Fluent Bit gives the records of one list one time. A second filter, which calls kube_audit_time, gives each record
-- the time of its event.

local DAYS = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
local RFC3339 = "^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt](%d%d):(%d%d):(%d%d)(%.?%d*)([Zz+-])(.*)$"
local LONGEST = 62
local MOST_SECONDS = 4294967293 -- the two above are Fluent Bit's markers of groups
-- A time that is a number is exact to some 240 ns. It is rounded up, so that Fluent Bit, which rounds down, gets the
-- same microsecond.
local NUDGE = 120
local SAME = 500 -- nanoseconds; a record that has a time so near is not written anew

local function is_leap(year)
  return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
end

-- Days from 1970-01-01 to a day; nil if there is no such day. Years begin in March here, with the leap day last.
local function days_to(year, month, day)
  local length = DAYS[month]
  if not length or day < 1 or day > length + (month == 2 and is_leap(year) and 1 or 0) then
    return nil
  end
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  local of_year = (153 * (month - 3) + 2 - (153 * (month - 3) + 2) % 5) / 5 + day - 1
  local leaps = (year - year % 4) / 4 - (year - year % 100) / 100 + (year - year % 400) / 400
  return 365 * year + leaps + of_year - 719468
end

-- Seconds and nanoseconds of a time in RFC 3339; nil for anything else.
local function read_time(value)
  value = text(value)
  local year, month, day, hour, minute, second, fraction, zone, rest = match(value, RFC3339)
  if not year or #value > LONGEST or (fraction ~= "" and not find(fraction, "^%.%d")) then
    return nil
  end
  local days = days_to(tonumber(year), tonumber(month), tonumber(day))
  hour, minute, second = tonumber(hour), tonumber(minute), tonumber(second)
  if not days or hour > 23 or minute > 59 or second > 59 then
    return nil
  end
  local seconds = days * 86400 + hour * 3600 + minute * 60 + second
  if zone == "+" or zone == "-" then
    local hours, minutes = match(rest, "^(%d%d):(%d%d)$")
    if not hours then
      return nil
    end
    local offset = tonumber(hours) * 3600 + tonumber(minutes) * 60
    seconds = seconds + (zone == "-" and offset or -offset)
  elseif rest ~= "" then
    return nil
  end
  if seconds < 0 or seconds > MOST_SECONDS then
    return nil
  end
  return seconds, tonumber(sub(sub(fraction, 2) .. "000000000", 1, 9))
end

local function first_time(stage, received)
  local seconds, nanoseconds = read_time(stage)
  if not seconds then
    seconds, nanoseconds = read_time(received)
  end
  return seconds, nanoseconds
end

local time_in

-- Lists on the way to the event are gone.
local function without_lists(step)
  while PATH[step] == EACH do
    step = step + 1
  end
  return step
end

local function time_in_json(json, first, step)
  local found = byte(json, first)
  if found == QUOTE then
    return time_in(string_at(json, first, end_of_string(json, first)), step)
  elseif found ~= OPEN_MAP then
    return nil
  end
  local last, list, index = open(members, json, first)
  if not last then
    return nil
  end
  step = without_lists(step)
  if step == PATH_END then
    return first_time(
      read(json, list, index, "stageTimestamp", "text"),
      read(json, list, index, "requestReceivedTimestamp", "text")
    )
  end
  local at = index[PATH[step]]
  if at then
    return time_in_json(json, list[at + 2], step + 1)
  end
end

function time_in(value, step)
  if type(value) == "string" then
    local first = solid(value, sub(value, 1, 3) == "\239\187\191" and 4 or 1)
    if first then
      return time_in_json(value, first, step)
    end
  end
  if not is_map(value) then
    return nil
  end
  step = without_lists(step)
  if step == PATH_END then
    return first_time(value.stageTimestamp, value.requestReceivedTimestamp)
  end
  return time_in(value[PATH[step]], step + 1)
end

-- The time of the event in a record, as Fluent Bit gives times to the script; nil if the record has to stay as it is,
-- because the time can't be read, or is the record's already, or because the record can't be written anew.
local function new_time(record, timestamp)
  local seconds, nanoseconds = time_in(record, 1)
  if not seconds and not EVENT_PATH then
    seconds, nanoseconds = time_in(record.log, 1)
    if not seconds then
      seconds, nanoseconds = time_in(record.message, 1)
    end
  end
  if not seconds then
    return nil
  end
  local is_table = type(timestamp) == "table"
  local apart = is_table and (timestamp.sec - seconds) * 1e9 + timestamp.nsec - nanoseconds
    or (timestamp - seconds) * 1e9 - nanoseconds
  if (apart < SAME and apart > -SAME) or flb_null == nil or not survives(record) then
    return nil
  end
  return is_table and { sec = seconds, nsec = nanoseconds } or seconds + (nanoseconds + NUDGE) / 1e9
end

-- Fluent Bit calls this, in a filter behind the one that splits. The result 1 gives the record another time.
function kube_audit_time(_, timestamp, record)
  local found, own = pcall(new_time, record, timestamp)
  if found and own then
    return 1, own, record
  end
  return 0, type(timestamp) == "table" and timestamp or 0, 0
end
