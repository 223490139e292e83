-- What is done with an event that goes on, in the order of filter_engine/actions.py: its rate is written into
-- it, then it is reduced.

-- These functions return whether the event has changed (for JSON text: the new text), whether it should have
-- changed and can't, and whether the change counts as a reduction.

local function change_json(json, first, last, event, rule)
  local new, reduced, failed
  if rule.rate then
    new = annotated_json(json, first, rule.rate)
    if new then
      json, first, last = new, 1, #new
    end
  end
  if REDUCE then
    reduced, failed = reduce_json(json, first, last, event, rule)
    if failed then
      return nil, true
    end
  end
  new = reduced or new
  return new, false, new and REDUCE and (not rule.rate or is_lowered(event, rule))
end

-- Tables are changed in place, so what may fail comes first. The result is the same.
local function change_table(event, rule)
  local changed, failed, is_reduction = false, false, false
  if REDUCE then
    local lowered = is_lowered(event, rule)
    changed, failed = reduce_table(event, rule)
    if failed then
      return false, true
    end
    is_reduction = not rule.rate or lowered
  end
  changed = rule.rate and annotate_table(event, rule.rate) or changed
  return changed, false, changed and is_reduction
end
