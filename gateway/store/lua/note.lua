-- note v1: tell the ledger's audit of something that was done to the gateway itself, not to a task.
--
-- KEYS  1 clock   2 the ledger's stream
-- ARGV  1 now_ms or ''   2 what it was done to, as kind:name   3 the act as JSON
-- Returns nothing

local now = clock(KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '*', 'e',
  'act ' .. int(now) .. ' ' .. ARGV[2] .. ' ' .. int(NUMBER) .. ' -', 'd', ARGV[3])
return {}
