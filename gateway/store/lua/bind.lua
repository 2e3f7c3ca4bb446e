-- bind v1: bind a session to a task, or end that; the ledger is told in the same act.
--
-- KEYS  1 clock   2 the ledger's stream   3 session   4 index of sessions that are bound
-- ARGV  1 now_ms or ''   2 session:<id>   3 the binding as JSON, '' = end it   4 when it expires, ms
--       5 the act as JSON   6 the session's id
-- Returns 1, or 0 if there was nothing to end
--
-- Bindings expire by themselves; their places in the index are cleared away by the next act.

local now = clock(KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', int(now))
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[4], ARGV[6])
  if redis.call('DEL', KEYS[3]) == 0 then
    return 0
  end
else
  redis.call('SET', KEYS[3], ARGV[3], 'PXAT', ARGV[4])
  redis.call('ZADD', KEYS[4], ARGV[4], ARGV[6])
end
tell_of_record(KEYS[2], now, ARGV[2], ARGV[3], ARGV[5])
return 1
