-- override v1: put other limits in force for a task, if nobody changed them meanwhile.
--
-- KEYS  1 clock  2 task  3 its list of overrides  4 task index  5 ledger stream
-- ARGV  1 now_ms or ''   2 version that the new limits were computed from
--       3 the override as JSON for the task's history, '' when limits lapse by time alone
--       4 dimensions, joined by commas, that must have room afterwards (S <= C); '' = none
--       5 1 to end a trip in any case (resume)
--       6 earliest expiry among the overrides in force, ms; '' = none
--       7.. field, value, ... of the limits in force
-- Returns {'conflict'} | {'absent'} | {'short', dimension, missing} | {'applied', now_ms}

local now = clock(KEYS[1], ARGV[1])
local is = redis.call('HMGET', KEYS[2], 'facts', 'version')
if not is[1] then
  return {'absent'}
end
if int(num(is[2])) ~= ARGV[2] then
  return {'conflict'}
end

local fields = {}
for i = 7, #ARGV, 2 do
  fields[ARGV[i]] = ARGV[i + 1]
end
for dimension in string.gmatch(ARGV[4], '[^,]+') do
  local line = fields[dimension .. '.C']
  local missing = line and standing(KEYS[2], dimension, now) - num(line) or 0
  if missing > 0 then
    return {'short', dimension, int(missing)}
  end
end

-- Totals of task and phases whose limit is lower from now on, and which are at half of it or beyond.
local function nearer_to_limits()
  local prefixes, words = {''}, {}
  for phase in pairs(ORDER) do
    prefixes[#prefixes + 1] = phase .. '.'
  end
  for _, prefix in ipairs(prefixes) do
    for _, dimension in ipairs({'tokens', 'nano_usd'}) do
      local name = prefix .. dimension
      local was = redis.call('HMGET', KEYS[2], name .. '.S', name .. '.L', name .. '.G')
      local used, before = num(was[1]), num(was[2]) + num(was[3])
      local limit = num(fields[name .. '.L']) + num(fields[name .. '.G'])
      if fields[name .. '.L'] and (not was[2] or limit < before) and used > 0
          and used + used >= limit then
        words[#words + 1] = table.concat({scope_words(KEYS[2], prefix), dimension, int(used),
          was[2] and int(before) or '-', int(limit)}, ' ')
      end
    end
  end
  return words
end

local nearer = nearer_to_limits()
drop_limits(KEYS[2], fields)
redis.call('HSET', KEYS[2], 'version', int(num(is[2]) + 1), unpack(ARGV, 7))
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[2], 'expires', ARGV[6])
end
if ARGV[3] ~= '' then
  redis.call('RPUSH', KEYS[3], ARGV[3])
  tell_of_task('override', KEYS[2], now, ' ' .. int(NUMBER), ARGV[3])
  end_loop(KEYS[2])
end
tell_of_lower(KEYS[2], now, nearer)
if ARGV[5] == '1' then
  end_trip(KEYS[2])
else
  end_trip_if_freed(KEYS[2], now)
end
return {'applied', int(now)}
