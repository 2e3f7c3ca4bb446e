-- record v1: tell the ledger what there is of a gateway key from now on.
--
-- KEYS  1 clock   2 the ledger's stream
-- ARGV  1 now_ms or ''   2 key:<id>   3 the key as JSON, with digests of its secrets   4 the act as JSON,
--       '' = nobody's
-- Returns nothing

local now = clock(KEYS[1], ARGV[1])
tell_of_record(KEYS[2], now, ARGV[2], ARGV[3], ARGV[4])
return {}
