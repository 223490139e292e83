-- An exec filter for Fluent Bit. It asks a child process, kube-audit-filter exec --reply, about each record.
--
--   filters:
--     - name: lua
--       match: kube.audit
--       script: exec_filter.lua
--       call: kube_audit_filter
--
-- The child gets the fields that it needs for a decision, as MessagePack. It answers true (keep), false (drop)
-- or with a replacement record; or nil, if its policy needs or may change other fields too: from then on it gets
-- whole records. While no child answers, records are kept. This needs Linux, and a Fluent Bit with LuaJIT 2.1.

-- Settings: here, in Fluent Bit's environment, or under env: in its configuration. A global of that name comes
-- first, for a filter that has settings of its own:
--
--       code: |
--         AUDIT_POLICY = "/etc/fluent-bit/policy.yaml"
--         dofile("/etc/fluent-bit/exec_filter.lua")
local function setting(name, default)
  local value = tostring(rawget(_G, name) or (FLB_ENV or {})[name] or os.getenv(name) or "")
  return value ~= "" and value or default
end

-- What to run. The options are split at spaces; an option with a space in it has to be written here.
local COMMAND = { setting("AUDIT_FILTER_PROGRAM", "kube-audit-filter"), "exec", "--reply", "--policy" }
COMMAND[5] = setting("AUDIT_POLICY", "builtin:recommended")
for word in setting("AUDIT_FILTER_OPTIONS", ""):gmatch("%S+") do
  COMMAND[#COMMAND + 1] = word
end
-- Milliseconds that an answer may take. Fluent Bit stands still meanwhile.
local TIMEOUT = setting("AUDIT_FILTER_TIMEOUT_MS", "1000")
-- The same for the first answer of a child, which has to start and to read its policy.
local START_TIMEOUT = setting("AUDIT_FILTER_START_TIMEOUT_MS", "10000")
-- What to do with an undecided record: keep, or drop. With drop, records that the policy would have kept are lost
-- whenever the child does not answer.
local ON_FAILURE = setting("AUDIT_FILTER_ON_FAILURE", "keep")
-- A directory for node_exporter's textfile collector: a file there counts the undecided records, whether a child
-- runs or not. By default the one that exec is told to use, if it is.
local METRICS = setting("AUDIT_FILTER_METRICS_TEXTFILE")
for index, word in ipairs(COMMAND) do
  METRICS = METRICS or word:match("^%-%-metrics%-textfile=(.+)") or word == "--metrics-textfile" and COMMAND[index + 1]
end

-- Seconds from a failure to the next start: the first pause, then twice the pause before.
local FIRST_PAUSE, LAST_PAUSE = 0.1, 30
-- Seconds. If a child has answered for this long and then ends, another is started at once, with the question.
local STEADY = 1
local MAX_DEPTH, MAX_ANSWER = 128, 64 * 2 ^ 20
-- Seconds before a message of the same kind is written again, and before the metrics are.
local QUIET, METRICS_INTERVAL = 60, 15
-- How many filters may write metrics to one directory.
local SLOTS = 100

for name, value in pairs({ TIMEOUT_MS = TIMEOUT, START_TIMEOUT_MS = START_TIMEOUT }) do
  local number = tonumber(value) or 0
  assert(number > 0 and number <= 1e9, "AUDIT_FILTER_" .. name .. ": expected milliseconds, not " .. value)
end
assert(ON_FAILURE == "keep" or ON_FAILURE == "drop", "AUDIT_FILTER_ON_FAILURE: expected keep or drop")

local ffi, bit = require("ffi"), require("bit")
assert(ffi.os == "Linux", "the exec filter is for Linux")
local C, char, floor = ffi.C, string.char, math.floor
ffi.cdef([[
  struct kaf_pollfd { int fd; short events, revents; };
  struct kaf_timespec { long seconds, nanoseconds; };
  extern char **environ;
  int open(const char *path, int flags, ...);
  int flock(int fd, int operation);
  int pipe2(int *ends, int flags);
  int fcntl(int fd, int command, ...);
  int close(int fd);
  long read(int fd, void *to, size_t size);
  long write(int fd, const void *from, size_t size);
  int poll(struct kaf_pollfd *fds, unsigned long count, int milliseconds);
  int kill(int pid, int signal);
  int waitpid(int pid, int *status, int options);
  int clock_gettime(int clock, struct kaf_timespec *time);
  char *strerror(int number);
  int sigemptyset(void *set);
  int sigfillset(void *set);
  int posix_spawnattr_init(void *attributes);
  int posix_spawnattr_setflags(void *attributes, short flags);
  int posix_spawnattr_setsigmask(void *attributes, const void *set);
  int posix_spawnattr_setsigdefault(void *attributes, const void *set);
  int posix_spawnattr_destroy(void *attributes);
  int posix_spawn_file_actions_init(void *actions);
  int posix_spawn_file_actions_adddup2(void *actions, int fd, int as);
  int posix_spawn_file_actions_addclose(void *actions, int fd);
  int posix_spawn_file_actions_addclosefrom_np(void *actions, int from);
  int posix_spawn_file_actions_destroy(void *actions);
  int posix_spawnp(int *pid, const char *file, const void *actions, const void *attributes,
                   const char *const *arguments, char *const *environment);
]])
-- These numbers are the same on x86 and ARM.
local EINTR, EAGAIN, POLLIN, POLLOUT, SIGKILL, WNOHANG = 4, 11, 1, 4, 9, 1
local F_GETFD, F_SETFL, O_NONBLOCK, O_CLOEXEC = 1, 4, ffi.cast("int", 0x800), 0x80000
local O_RDWR, O_CREAT, O_EXCL, READABLE, LOCK_EX, LOCK_NB = 2, 0x40, 0x80, ffi.cast("int", 0x1a4), 2, 4
local O_NOFOLLOW = ffi.arch:find("^arm") and 0x8000 or 0x20000 -- this one is not
local SETSIGDEF, SETSIGMASK = 4, 8

-- Fluent Bit gives each table a metatable with its type, because an empty table does not show whether it is a map.
local ARRAY, MAP = { type = 1 }, { type = 2 }
-- Fluent Bit puts the global flb_null, a null pointer, in place of a null. Without the filter's setting
-- enable_flb_null the global is nil, and nulls would be missing from records that change. LuaJIT can make the
-- pointer too.
if flb_null == nil then
  local made, null = pcall(function()
    return require("string.buffer").decode("\3")
  end)
  flb_null = made and type(null) == "userdata" and null or nil
end

-- The answer nil: the child needs whole records. Whether it is known to need them, as it does with --reduce.
local WHOLE, REDUCE = {}, false
for _, word in ipairs(COMMAND) do
  REDUCE = REDUCE or word == "--reduce"
end
local wants_whole = REDUCE

local child -- pid; to and from, the ends of its pipes; since, the time of its first answer
local pause, retry_at = 0, 0
local deadline -- of the record that is being asked about
local unread, position, received = "", 1, 0 -- of an answer
local undecided, last_said = 0, {} -- since the last message
local failure_kind = "script" -- of the last failure
local FATE = ON_FAILURE == "keep" and "kept" or "dropped"

local time = ffi.new("struct kaf_timespec")

-- Seconds, of a clock that nobody can set.
local function now()
  C.clock_gettime(1, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

-- Write to stderr, where Fluent Bit's own log is: at most one message of each kind in a minute.
local function say(kind, text)
  local second = os.time()
  -- If the clock is set back, messages still come.
  if math.abs(second - (last_said[kind] or -QUIET)) >= QUIET then
    last_said[kind] = second
    local count = undecided > 0 and ("; %d records %s undecided"):format(undecided, FATE) or ""
    io.stderr:write(os.date("[%Y/%m/%d %H:%M:%S] [ warn] [kube-audit-filter] "), text, count, "\n")
    undecided = 0
  end
end

-- A failure is a table. An error that is a string is a fault of this script.
local function fail(kind, text)
  error({ kind = kind, text = text }, 0)
end

-- Metrics -------------------------------------------------------------------------------------------------

local METRICS_TEXT = [[
# HELP kube_audit_filter_script_undecided_total Records that exec_filter.lua got no answer for.
# TYPE kube_audit_filter_script_undecided_total counter
%s# HELP kube_audit_filter_script_not_reduced_total Records that exec_filter.lua could not change as it was answered.
# TYPE kube_audit_filter_script_not_reduced_total counter
kube_audit_filter_script_not_reduced_total{script="%d"} %d
]]
-- The kinds of failures, as the metrics call them.
local REASONS = {
  start = "not_started",
  ended = "ended",
  timeout = "timeout",
  garbage = "wrong_answer",
  record = "too_deep",
  script = "internal_error",
}
local totals, not_reduced = {}, 0
for kind in pairs(REASONS) do
  totals[kind] = 0
end
local number, lock -- of this filter, among those that write to the directory; the lock of that number
local unwritten, written_at = false, -METRICS_INTERVAL

local function count_undecided(kind)
  undecided, unwritten = undecided + 1, METRICS
  totals[kind] = totals[kind] + 1
end

local function metrics_file(prefix, suffix)
  return ("%s/%skube-audit-filter-script-%d%s"):format(METRICS, prefix, number, suffix)
end

-- Take the first number that no other filter has: those of one Fluent Bit share their environment. The lock is
-- free again when the process ends, in whatever way.
local function take_number()
  local reason
  for slot = 0, SLOTS - 1 do
    number = slot
    local fd = C.open(metrics_file("", ".lock"), O_RDWR + O_CREAT + O_NOFOLLOW + O_CLOEXEC, READABLE)
    if fd >= 0 and C.flock(fd, LOCK_EX + LOCK_NB) == 0 then
      lock = fd
      return
    end
    reason = ffi.string(C.strerror(ffi.errno()))
    if fd >= 0 then
      C.close(fd)
    end
  end
  fail("metrics", reason)
end

local function write_metrics()
  if not lock then
    take_number()
  end
  local lines = {}
  for kind, reason in pairs(REASONS) do
    lines[#lines + 1] = ('kube_audit_filter_script_undecided_total{script="%d",reason="%s",fate="%s"} %d\n'):format(
      number, reason, FATE, totals[kind])
  end
  table.sort(lines)
  local text = METRICS_TEXT:format(table.concat(lines), number, not_reduced)
  -- Others may write to the directory too: a file that has to be new follows no link of theirs.
  local new = metrics_file(".", ".prom.new")
  os.remove(new)
  local fd = C.open(new, O_RDWR + O_CREAT + O_EXCL + O_CLOEXEC, READABLE)
  local done = fd >= 0 and C.write(fd, text, #text) == #text
  local errno = ffi.errno()
  if fd >= 0 then
    C.close(fd)
  end
  if not done then
    fail("metrics", ffi.string(C.strerror(errno)))
  end
  local renamed, reason = os.rename(new, metrics_file("", ".prom"))
  if not renamed then
    fail("metrics", reason)
  end
  unwritten = false
end

-- Write the metrics if they have changed, at most every so often. If that fails, say so, and try again later.
local function publish()
  local second = os.time()
  if unwritten and math.abs(second - written_at) >= METRICS_INTERVAL then
    written_at = second
    local written, reason = pcall(write_metrics)
    if not written then
      reason = type(reason) == "table" and reason.text or tostring(reason)
      say("metrics", ("no metrics in %s: %s"):format(METRICS, reason))
    end
  end
end

-- The child -----------------------------------------------------------------------------------------------

-- The child gets stdin, stdout and stderr, and nothing else that Fluent Bit has open.
local function close_others(actions)
  -- glibc has this since 2.34.
  if pcall(function() return C.posix_spawn_file_actions_addclosefrom_np end) then
    return C.posix_spawn_file_actions_addclosefrom_np(actions, 3)
  end
  for fd = 3, 4095 do
    if C.fcntl(fd, F_GETFD) == 0 then -- open, and without FD_CLOEXEC
      C.posix_spawn_file_actions_addclose(actions, fd)
    end
  end
end

-- Start a child that reads one pipe and writes the other.
local function start()
  local ends = ffi.new("int[4]", -1, -1, -1, -1)
  if C.pipe2(ends, O_CLOEXEC) ~= 0 or C.pipe2(ends + 2, O_CLOEXEC) ~= 0 then
    local reason = ffi.string(C.strerror(ffi.errno()))
    C.close(ends[0])
    C.close(ends[1])
    fail("start", "no pipe: " .. reason)
  end
  -- All of these are larger than the structures of any C library.
  local actions, attributes, signals = ffi.new("long[128]"), ffi.new("long[128]"), ffi.new("long[128]")
  C.posix_spawn_file_actions_init(actions)
  C.posix_spawn_file_actions_adddup2(actions, ends[0], 0)
  C.posix_spawn_file_actions_adddup2(actions, ends[3], 1)
  close_others(actions)
  -- Fluent Bit blocks and ignores signals that the child needs.
  C.posix_spawnattr_init(attributes)
  C.posix_spawnattr_setflags(attributes, SETSIGDEF + SETSIGMASK)
  C.sigemptyset(signals)
  C.posix_spawnattr_setsigmask(attributes, signals)
  C.sigfillset(signals)
  C.posix_spawnattr_setsigdefault(attributes, signals)
  local arguments = ffi.new("const char *[?]", #COMMAND + 1, COMMAND)
  arguments[#COMMAND] = nil
  local pid = ffi.new("int[1]")
  local code = C.posix_spawnp(pid, COMMAND[1], actions, attributes, arguments, C.environ)
  C.posix_spawn_file_actions_destroy(actions)
  C.posix_spawnattr_destroy(attributes)
  C.close(ends[0])
  C.close(ends[3])
  if code ~= 0 then
    C.close(ends[1])
    C.close(ends[2])
    fail("start", COMMAND[1] .. " can't be started: " .. ffi.string(C.strerror(code)))
  end
  C.fcntl(ends[1], F_SETFL, O_NONBLOCK)
  C.fcntl(ends[2], F_SETFL, O_NONBLOCK)
  child = { pid = pid[0], to = ends[1], from = ends[2] }
  wants_whole = REDUCE
end

-- Wait for a process to end, so that no zombie is left. Returns its status, or nil if it still runs.
local function reap(pid, seconds)
  local status, give_up = ffi.new("int[1]"), now() + seconds
  while true do
    local found = C.waitpid(pid, status, WNOHANG)
    if found == pid or found < 0 and ffi.errno() ~= EINTR then
      return status[0]
    elseif now() >= give_up then
      return nil
    end
    C.poll(nil, 0, 1)
  end
end

-- Leave no child behind. A child ends by itself after its input has ended, and gets some seconds for that.
-- Returns how it ended.
local function stop(seconds)
  if not child then
    return
  end
  local pid = child.pid
  C.close(child.to)
  C.close(child.from)
  child = nil
  local status = reap(pid, seconds)
  if not status then
    C.kill(pid, SIGKILL)
    reap(pid, 1) -- not for ever: in an uninterruptible sleep, even a killed process stays
    return "was killed"
  end
  local signal = bit.band(status, 0x7f)
  return signal == 0 and "exit status " .. bit.rshift(status, 8) or "signal " .. signal
end

local awaited = ffi.new("struct kaf_pollfd")

-- Wait until a pipe can be used. A broken one counts as usable: the next read or write fails.
local function wait(fd, events)
  awaited.fd, awaited.events = fd, events
  while true do
    local left = deadline - now()
    if left <= 0 then
      fail("timeout", "did not answer in time")
    elseif C.poll(awaited, 1, math.ceil(left * 1000)) > 0 then
      return
    end
  end
end

local chunk = ffi.new("uint8_t[65536]")

-- The bytes that the child has written, without waiting; nil if there are none.
local function read()
  while true do
    local count = tonumber(C.read(child.from, chunk, 65536))
    if count > 0 then
      return ffi.string(chunk, count)
    end
    local errno = count < 0 and ffi.errno()
    if errno == EAGAIN then
      return nil
    elseif errno ~= EINTR then
      fail("ended", "ended")
    end
  end
end

-- Write a question. The child answers after it has read all of it, so nothing has to be read meanwhile.
local function write(bytes)
  local data, sent = ffi.cast("const uint8_t *", bytes), 0
  while sent < #bytes do
    local count = tonumber(C.write(child.to, data + sent, #bytes - sent))
    local errno = count < 0 and ffi.errno()
    if count > 0 then
      sent = sent + count
    elseif errno == EAGAIN then
      wait(child.to, POLLOUT)
    elseif errno ~= EINTR then -- EPIPE: Fluent Bit ignores SIGPIPE
      fail("ended", "ended")
    end
  end
end

-- MessagePack ---------------------------------------------------------------------------------------------

local eight = ffi.new("union { double real; int64_t integer; uint8_t bytes[8]; }")

-- Between the machine's order of bytes and MessagePack's.
local function swap()
  if ffi.abi("le") then
    eight.integer = bit.bswap(eight.integer)
  end
end

-- The first bytes of a value that has a length, in the shortest encoding.
local function head(count, short, limit, one, two, four)
  if count < limit then
    return char(short + count)
  elseif one and count < 256 then
    return char(one, count)
  elseif count < 65536 then
    return char(two, floor(count / 256), count % 256)
  end
  return char(four, floor(count / 2 ^ 24), floor(count / 65536) % 256, floor(count / 256) % 256, count % 256)
end

local function is_array(value)
  local metatable = getmetatable(value)
  if metatable and metatable.type then
    return metatable.type == ARRAY.type
  end
  return table.maxn(value) > 0
end

-- Append the pieces of a value's encoding to a list.
local function pack(value, out, depth)
  local kind = type(value)
  if kind == "string" then
    out[#out + 1] = head(#value, 0xa0, 32, 0xd9, 0xda, 0xdb)
    out[#out + 1] = value
  elseif kind == "table" then
    if depth > MAX_DEPTH then
      fail("record", "a record is nested too deeply to be asked about")
    elseif is_array(value) then
      local count = table.maxn(value) -- # may stop at a null
      out[#out + 1] = head(count, 0x90, 16, nil, 0xdc, 0xdd)
      for index = 1, count do
        pack(value[index], out, depth + 1)
      end
    else
      local at, count = #out + 1, 0
      out[at] = ""
      for key, inner in pairs(value) do
        pack(key, out, depth + 1)
        pack(inner, out, depth + 1)
        count = count + 1
      end
      out[at] = head(count, 0x80, 16, nil, 0xde, 0xdf)
    end
  elseif kind == "number" then
    if value >= 0 and value < 128 and value == floor(value) then
      out[#out + 1] = char(value)
    elseif value == floor(value) and value >= -2 ^ 63 and value < 2 ^ 63 then
      eight.integer = value
      swap()
      out[#out + 1] = "\xd3" .. ffi.string(eight.bytes, 8)
    else
      eight.real = value
      swap()
      out[#out + 1] = "\xcb" .. ffi.string(eight.bytes, 8)
    end
  elseif kind == "boolean" then
    out[#out + 1] = value and "\xc3" or "\xc2"
  else
    out[#out + 1] = "\xc0"
  end
end

-- The next bytes of the answer.
local function take(count)
  received = received + count
  if received > MAX_ANSWER then
    fail("garbage", "answered with more than can be right")
  end
  local have = #unread - position + 1
  if have < count then
    local pieces = { unread:sub(position) }
    repeat
      wait(child.from, POLLIN)
      local piece = read() or ""
      pieces[#pieces + 1] = piece
      have = have + #piece
    until have >= count
    unread, position = table.concat(pieces), 1
  end
  position = position + count
  return unread:sub(position - count, position - 1)
end

local function unsigned(size)
  local number = 0
  for _, byte in ipairs({ take(size):byte(1, -1) }) do
    number = number * 256 + byte
  end
  return number
end

local function signed(size)
  if size == 8 then
    return signed(4) * 2 ^ 32 + unsigned(4)
  end
  local number = unsigned(size)
  return number < 2 ^ (8 * size - 1) and number or number - 2 ^ (8 * size)
end

local unpack_next

-- Arrays and maps get a metatable that tells Fluent Bit the type of an empty one.
local function array(count, depth)
  local value = setmetatable({}, ARRAY)
  for index = 1, count do
    value[index] = unpack_next(depth + 1)
  end
  return value
end

local function map(count, depth)
  local value = setmetatable({}, MAP)
  for _ = 1, count do
    local key = unpack_next(depth + 1)
    value[key] = unpack_next(depth + 1)
  end
  return value
end

-- Questions have no other types, and so answers have none.
function unpack_next(depth)
  local first = take(1):byte()
  if depth > MAX_DEPTH then
    fail("garbage", "answered with something nested too deeply")
  elseif first < 0x80 then
    return first
  elseif first < 0x90 then
    return map(first - 0x80, depth)
  elseif first < 0xa0 then
    return array(first - 0x90, depth)
  elseif first < 0xc0 then
    return take(first - 0xa0)
  elseif first == 0xc0 then
    return depth == 1 and WHOLE or flb_null
  elseif first == 0xc2 or first == 0xc3 then
    return first == 0xc3
  elseif first == 0xcb then
    ffi.copy(eight.bytes, take(8), 8)
    swap()
    return eight.real
  elseif first >= 0xcc and first <= 0xcf then
    return unsigned(2 ^ (first - 0xcc))
  elseif first >= 0xd0 and first <= 0xd3 then
    return signed(2 ^ (first - 0xd0))
  elseif first >= 0xd9 and first <= 0xdb then
    return take(unsigned(2 ^ (first - 0xd9)))
  elseif first == 0xdc or first == 0xdd then
    return array(unsigned(2 ^ (first - 0xdb)), depth)
  elseif first == 0xde or first == 0xdf then
    return map(unsigned(2 ^ (first - 0xdd)), depth)
  elseif first >= 0xe0 then
    return first - 256
  end
  fail("garbage", "answered with something that is no answer")
end

-- Asking --------------------------------------------------------------------------------------------------

-- Send a question to the child, and return its answer. If there is no child, one is started.
local function exchange(bytes, may_change)
  if not child then
    start()
  elseif read() then -- this fails if the child has ended
    fail("garbage", "wrote something that it was not asked for")
  end
  deadline = now() + (child.since and TIMEOUT or START_TIMEOUT) / 1000
  unread, position, received = "", 1, 0
  write(bytes)
  local answer = unpack_next(1)
  local is_answer = type(answer) == "boolean"
    or answer == WHOLE and not wants_whole
    or may_change and getmetatable(answer) == MAP
  if position <= #unread or not is_answer then
    fail("garbage", "answered with something that is no answer")
  end
  child.since = child.since or now()
  return answer
end

-- End a child after a failure, and set the time at which the next may start.
local function failed(failure, waited)
  if type(failure) ~= "table" then
    failure = { kind = "script", text = "failed: " .. tostring(failure) }
  end
  failure_kind = failure.kind
  local steady = child and child.since and now() - child.since >= STEADY
  -- A child that has ended by itself leaves its status. Any other is out of step, and is killed.
  local how = stop(failure.kind == "ended" and 0.1 or 0)
  if steady and failure.kind == "ended" then
    pause = 0
  else
    -- At least as long as Fluent Bit had to wait, so that half of its time stays its own.
    pause = math.max(FIRST_PAUSE, waited, math.min(steady and 0 or pause * 2, LAST_PAUSE))
  end
  retry_at = now() + pause
  say(failure.kind, failure.text .. (how and " (" .. how .. ")" or "") .. (", next try in %.1f s"):format(pause))
end

-- The answer to a question; nil if there is none.
local function ask(bytes, may_change)
  for _ = 1, 2 do
    local began = now()
    if not child and began < retry_at then
      break
    end
    local answered, answer = pcall(exchange, bytes, may_change)
    if answered then
      if undecided > 0 then
        say("back", "answers again")
      end
      return answer
    end
    failed(answer, now() - began)
  end
  count_undecided(failure_kind)
  return nil
end

-- Records -------------------------------------------------------------------------------------------------

-- The fields that exec needs: those that make a map an event, and those that policies look at. A test checks
-- that no field of filter_engine/fields.py is missing.
local FIELDS = {
  "auditID", "verb", "stage", "level", "requestURI", "user", "impersonatedUser", "sourceIPs", "userAgent",
  "objectRef", "responseStatus",
}
local MEMBERS = {
  user = { "username", "groups" },
  impersonatedUser = { "username" },
  objectRef = { "apiGroup", "resource", "subresource", "namespace", "name" },
  responseStatus = { "code" },
}
-- Where exec looks for events if the record itself is not one.
local PLACES = { "items", "log", "message" }

-- Tells exec that a record is only a part of one.
local PARTIAL = "kube-audit-filter/partial"

-- With this option exec needs the whole record, whether it is an event or not.
local by_key
for _, word in ipairs(COMMAND) do
  by_key = by_key or word:find("^%-%-event%-key")
end

local function may_hold_events(name, value)
  return type(value) == "table" or type(value) == "string" and name ~= "items" and value:find("{", 1, true)
end

-- Some entries of a map.
local function only(value, names)
  local part = setmetatable({}, MAP)
  for _, name in ipairs(names) do
    part[name] = value[name]
  end
  return part
end

-- The part of a record to send, and the keys whose values may come back changed. Returns nil for a record that
-- can't hold an event.
local function question(record)
  local may_be_event = type(record.auditID) == "string" and type(record.verb) == "string"
  if by_key or wants_whole and may_be_event then
    local keys = {}
    for key in pairs(record) do
      keys[#keys + 1] = key
    end
    return record, keys
  end
  local part, places = setmetatable({}, MAP), {}
  if may_be_event then
    part = only(record, FIELDS)
    part[PARTIAL] = true
    for name, members in pairs(MEMBERS) do
      if type(part[name]) == "table" and not is_array(part[name]) then
        part[name] = only(part[name], members)
      end
    end
  end
  -- If exec finds that the map is no event after all, it looks here.
  for _, name in ipairs(PLACES) do
    if may_hold_events(name, record[name]) then
      part[name] = record[name]
      places[#places + 1] = name
    end
  end
  return next(part) and part or nil, places
end

-- Whether Fluent Bit can write a value anew without a loss. Lua's numbers are doubles.
local function survives(value)
  if type(value) == "table" then
    for key, inner in pairs(value) do
      if not (survives(key) and survives(inner)) then
        return false
      end
    end
  end
  return type(value) ~= "number" or math.abs(value) < 2 ^ 53
end

-- Returns Fluent Bit's code, and the record if it changes.
local decide
function decide(record)
  local asked, keys = question(record)
  if not asked then
    return 0
  end
  local out = {}
  pack(asked, out, 1)
  local answer = ask(table.concat(out), #keys > 0)
  if answer == WHOLE then
    wants_whole = true
    return decide(record)
  end
  if type(answer) ~= "table" then
    local drop = answer == false or answer == nil and ON_FAILURE == "drop"
    return drop and -1 or 0
  end
  for _, key in ipairs(keys) do
    record[key] = answer[key]
  end
  if asked == record then
    for key, value in pairs(answer) do -- also one that is new, such as annotations
      record[key] = value
    end
  end
  if flb_null == nil or not survives(record) then
    not_reduced, unwritten = not_reduced + 1, METRICS
    say("number", "a record that has to change stays as it was: Lua can't hold one of its numbers or nulls")
    return 0
  end
  return 2, record
end

-- Fluent Bit calls this. Returns a code (0 keep, -1 drop, 2 replace), a time, and the record if it is replaced.
-- It never fails: on a failure, Fluent Bit would keep a whole chunk of records, undecided.
function kube_audit_filter(_, timestamp, record)
  local decided, code, changed = pcall(decide, record)
  if not decided then
    local failure = code
    if type(failure) ~= "table" then
      failure = { kind = "script", text = "failed: " .. tostring(failure) }
      pcall(stop, 0) -- its answer may still be unread
    end
    count_undecided(failure.kind)
    pcall(say, failure.kind, failure.text)
    code, changed = ON_FAILURE == "drop" and -1 or 0, nil
  end
  if unwritten then
    pcall(publish)
  end
  return code, timestamp, changed or 0
end

-- Runs when Fluent Bit stops or reloads. The child ends when its input does, and then writes its last totals.
local ending = newproxy(true)
getmetatable(ending).__gc = function()
  pcall(stop, 2)
  if undecided > 0 then
    last_said.ending = nil
    pcall(say, "ending", "ends")
  end
  if unwritten then
    written_at = -METRICS_INTERVAL
    pcall(publish)
  end
  if lock then
    C.close(lock)
  end
end
kube_audit_filter_ending = ending -- so that it is not collected before

-- The child is started now, to be ready when the first record comes.
local started, reason = pcall(start)
if not started then
  failed(reason, 0)
end
-- All counters are there before they grow: Prometheus does not see how a counter comes to its first value.
unwritten = METRICS
publish()
