-- switch v1: switch enforcement off or on for the tenant, and tell the ledger's audit.
--
-- KEYS  1 clock   2 the switch   3 the ledger's stream
-- ARGV  1 now_ms or ''   2 what stands there while it is off, '' to switch it on
--       3 ms until it is on again by itself, '' = not by itself   4 the act as JSON
-- Returns {was off before (0/1)}

local now = clock(KEYS[1], ARGV[1])
local was_off = redis.call('EXISTS', KEYS[2])
if ARGV[2] == '' then
  redis.call('DEL', KEYS[2])
elseif ARGV[3] == '' then
  redis.call('SET', KEYS[2], ARGV[2])
else
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
redis.call('XADD', KEYS[3], '*', 'e',
  'act ' .. int(now) .. ' gateway:enforcement ' .. int(NUMBER) .. ' -', 'd', ARGV[4])
return {was_off}
