-- bind v1: bind a session to a task, or end that; the ledger is told in the same act.
--
-- KEYS  1 clock   2 the ledger's stream   3 session
-- ARGV  1 now_ms or ''   2 session:<id>   3 the binding as JSON, '' = end it   4 when it expires, ms
--       5 the act as JSON
-- Returns 1, or 0 if there was nothing to end

local now = clock(KEYS[1], ARGV[1])
if ARGV[3] == '' then
  if redis.call('DEL', KEYS[3]) == 0 then
    return 0
  end
else
  redis.call('SET', KEYS[3], ARGV[3], 'PXAT', ARGV[4])
end
tell_of_record(KEYS[2], now, ARGV[2], ARGV[3], ARGV[5])
return 1
