-- replace_key v1: write a gateway key, unless somebody else has changed it meanwhile.
--
-- KEYS  1 all keys of the installation
-- ARGV  1 key id   2 the record as it was read, '' = there must be none   3 the record to write
-- Returns 1, or 0 if the record is another one by now: nothing was written

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
