-- restore_window v1: give the window of a spend limit back what the store has lost of it. Adds to what
-- is there, because calls go on meanwhile.
--
-- KEYS  1 window
-- ARGV  1 how long it is kept, ms, '' = for good; a window that is there knows that itself
--       2.. field, amount to add, ...
-- Returns nothing

local is_new = redis.call('EXISTS', KEYS[1]) == 0
for i = 2, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
if is_new and ARGV[1] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return {}
