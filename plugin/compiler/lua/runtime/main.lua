-- The function that Fluent Bit calls, and reports. These go to stderr, as Fluent Bit's own log does, because stdout
-- may be an output.

local counted = {
  records = 0, kept = 0, dropped = 0, rewritten = 0, reduced = 0, not_reduced = 0, split = 0, split_into = 0,
}
local REASONS = { "not_an_event", "undecodable", "too_deep", "too_many_items", "internal_error" }
local REASON_OF = {
  [NO_EVENT] = "not_an_event", [BROKEN] = "undecodable", [TOO_DEEP] = "too_deep", [TOO_MANY] = "too_many_items",
}
local undecided = {}
for i = 1, #REASONS do
  undecided[REASONS[i]] = 0
end

local function say(severity, message)
  io.stderr:write(os.date("[%Y/%m/%d %H:%M:%S]"), " [", severity, "] [kube-audit-filter] ", message, "\n")
end

local function list_of(counts, names)
  local parts = {}
  for i = 1, #names do
    local count = counts(names[i])
    if count > 0 then
      parts[#parts + 1] = (names[i].name or names[i]) .. "=" .. count
    end
  end
  return concat(parts, " ")
end

local function with_prefix(prefix, list)
  return list == "" and "" or prefix .. list
end

local named = {} -- the rules that events are counted by
for i = 1, #rules do
  named[i] = rules[i]
end
if NO_RULE.keeps then
  named[#named + 1] = NO_RULE
end

local reported = 0

local function report()
  if counted.records == reported then
    return
  end
  reported = counted.records
  local is_unmatched = not NO_RULE.keeps and NO_RULE.dropped > 0
  local why = list_of(function(reason)
    return undecided[reason]
  end, REASONS)
  say(
    " info",
    "records in=" .. counted.records
      .. " kept=" .. counted.kept
      .. " dropped=" .. counted.dropped
      .. " undecided=" .. counted.records - counted.kept - counted.dropped
      .. (why == "" and "" or " (" .. why .. ")")
      .. " rewritten=" .. counted.rewritten
      .. " reduced=" .. counted.reduced
      .. (counted.split > 0 and " split=" .. counted.split .. " split_into=" .. counted.split_into or "")
      .. (not_split > 0 and " not_split=" .. not_split or "")
      .. (counted.not_reduced > 0 and " not_reduced=" .. counted.not_reduced or "")
      .. (undecided_items > 0 and " undecided_list_items=" .. undecided_items or "")
      .. with_prefix("; events dropped by rule: ", list_of(function(rule)
        return rule.dropped
      end, named))
      .. with_prefix("; of these not in the sample: ", list_of(function(rule)
        return rule.left_out or 0
      end, named))
      .. (is_unmatched and "; events dropped because no rule matched: " .. NO_RULE.dropped or "")
      .. with_prefix("; events kept by rule: ", list_of(function(rule)
        return rule.kept
      end, named))
      .. (DRY_RUN and "; dry run: nothing was dropped or changed" or "")
      .. "; policy sha256 " .. POLICY_DIGEST
  )
end

local next_report, next_complaint, withheld = time() + REPORT_INTERVAL, 0, 0

local function complain(message, now)
  if now < next_complaint then
    withheld = withheld + 1
    return
  end
  local more = withheld > 0 and " (" .. withheld .. " more since the last such message)" or ""
  next_complaint, withheld = now + 60, 0
  say("error", "a record went on undecided: " .. message .. more)
end

local function account_for(decided, fate, more)
  counted.records = counted.records + 1
  if not decided then
    undecided.internal_error = undecided.internal_error + 1
    complain(tostring(fate), time())
  elseif fate >= UNDECIDED then
    local reason = REASON_OF[fate]
    undecided[reason] = undecided[reason] + 1
  elseif fate == DROP then
    counted.dropped = counted.dropped + 1
  else
    counted.kept = counted.kept + 1
    if fate == CHANGED or fate == SEVERAL then
      counted.rewritten = counted.rewritten + 1
      counted.reduced = counted.reduced + pending_reductions
    elseif more then
      counted.not_reduced = counted.not_reduced + 1
    end
    if fate == SEVERAL then
      counted.split = counted.split + 1
      counted.split_into = counted.split_into + #more
    end
  end
  counted.not_reduced = counted.not_reduced + pending_failures
  pending_reductions, pending_failures = 0, 0
  if REPORT_INTERVAL > 0 then
    local now = time()
    if now >= next_report then
      next_report = now + REPORT_INTERVAL
      report()
    end
  end
end

-- Fluent Bit calls this. The result -1 drops the record, 0 keeps its bytes, 2 replaces it and keeps its time. In
-- place of the record there may be an array of records.
function kube_audit_filter(_, timestamp, record)
  local decided, fate, more = pcall(decide_on, record)
  pcall(account_for, decided, fate, more)
  -- With time_as_table, Fluent Bit needs a table in any case.
  local stamp = type(timestamp) == "table" and timestamp or 0
  if not decided or DRY_RUN then
    return 0, stamp, 0
  elseif fate == DROP then
    return -1, stamp, 0
  elseif fate == CHANGED then
    return 2, stamp, record
  elseif fate == SEVERAL then
    return 2, stamp, more
  end
  return 0, stamp, 0
end

-- The last report is written when Fluent Bit ends the script: when it stops, or when it reloads.
local ending = newproxy and newproxy(true)
if ending then
  getmetatable(ending).__gc = function()
    pcall(report)
  end
  kube_audit_filter_ending = ending -- so that it is not collected before
end
say(" info", ("%d rules, policy sha256 %s"):format(#rules, POLICY_DIGEST))
if flb_null == nil and (CHANGES_EVENTS or SPLIT) then
  say(
    " warn",
    "without the filter's setting enable_flb_null no event is changed and no list is split: nulls would be lost"
  )
end
