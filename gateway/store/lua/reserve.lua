-- reserve v1: create the task if it is new, compare every budget, hold the amount or say why not.
--
-- KEYS  1 clock  2 call  3 leases  4 task index  5 task  6.. ancestors, nearest first
-- ARGV  1 call id          2 now_ms, '' for the server's clock (tests give it)
--       3 lease_ms         4 facts of the task that the plan was made with
--       5 snapshot: JSON array of field, value, ... to create the task with; '' = do not create
--       6 phase, '' if the call names none
--       7 first phase (by order) that is held to the cumulative line; 0 = every one
--       8 kind: expected | worst_case | none
--       9 effects: 8 letters, R refuse, F flag, - not compared; task then phase, by DIMENSIONS
--      10 input tokens, lower bound     11 input tokens to hold      12 their nano-dollars
--      13 output tokens wanted          14 fewest worth admitting    15 nano-dollars of one
--      16 weight of an output token, thousandths of a budget token
--      17 idle_close_ms: an execution idle for so long ends when another phase is active
--
-- Returns {'absent'}          the task is new and no snapshot was given
--         {'facts', facts}    the snapshot has other facts: plan again
--         {'lapsed'}          an override has run out: limits must be computed anew
--         {'duplicate'}       this call id was seen before; nothing was changed
--         {verdict, now_ms, phase, execution, held tokens, held nano_usd, output, stop scope (place
--          in the list, from 1), stop dimension, stop code, tripped now (0/1), line 'C'|'R',
--          scope, ...}        verdict: held | refused | short | in_flight | count
-- A scope of a task or ancestor is {state, trip, trip_code, episode, L G C R S H of each dimension};
-- the last one, of the phase, is {L C S H of each dimension}. Missing values are nil. The figures
-- are those before this call; an open latency interval is counted in.
--
-- Order: killed or blocked, tripped, runaway, task, ancestors, phase, then holds. If one refuses,
-- nothing is held anywhere. The rules are those of core/admission.py, which the tests hold this to.

local HEAD = {'facts', 'state', 'phase', 'trip', 'trip_code', 'episode', 'expires',
              'inflight', 'since'}
local TASK_FIELDS, PHASE_FIELDS = {unpack(HEAD)}, {'exec', 'inflight', 'since', 'last'}
for _, dimension in ipairs(DIMENSIONS) do
  for _, letter in ipairs({'L', 'G', 'C', 'R', 'S', 'H'}) do
    TASK_FIELDS[#TASK_FIELDS + 1] = dimension .. '.' .. letter
  end
  for _, letter in ipairs({'L', 'C', 'S', 'H'}) do
    PHASE_FIELDS[#PHASE_FIELDS + 1] = dimension .. '.' .. letter
  end
end

local call_id, kind, effects = ARGV[1], ARGV[8], ARGV[9]
local now = clock(KEYS[1], ARGV[2])

if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'duplicate'}
end

-- Read -----------------------------------------------------------------------------------------

local function with_open_interval(settled, inflight, since)
  if num(inflight) > 0 then
    return int(num(settled) + math.max(0, now - num(since)))
  end
  return settled
end

local function read_task(key)
  local v = redis.call('HMGET', key, unpack(TASK_FIELDS))
  local scope = {facts = v[1], phase = v[3] or '', expires = v[7], inflight = num(v[8]),
                 since = v[9], state = v[2] or 'open', trip = v[4] or '', balance = {}}
  scope.reply = {v[2], v[4], v[5], v[6]}
  for d, dimension in ipairs(DIMENSIONS) do
    local at = #HEAD + (d - 1) * 6
    local settled = v[at + 5]
    if dimension == 'latency_ms' then
      settled = with_open_interval(settled, v[8], v[9])
    end
    scope.balance[d] = {limit = v[at + 1], C = num(v[at + 3]), R = num(v[at + 4]),
                        S = num(settled), H = num(v[at + 6])}
    for i = 1, 6 do
      scope.reply[#scope.reply + 1] = i == 5 and settled or v[at + i]
    end
  end
  scope.trip_code, scope.episode = v[5] or '', num(v[6])
  return scope
end

local task = read_task(KEYS[5])
if not task.facts then
  if ARGV[5] == '' then
    return {'absent'}
  end
  redis.call('HSET', KEYS[5], 'created', int(now), unpack(cjson.decode(ARGV[5])))
  if ARGV[4] ~= 'untagged' then
    redis.call('ZADD', KEYS[4], now, string.match(KEYS[5], '[^:]*$'))
  end
  task = read_task(KEYS[5])
end
if task.facts ~= ARGV[4] then
  return {'facts', task.facts}
end
if task.expires and now >= num(task.expires) then
  return {'lapsed'}
end

local scopes = {task}
for i = 6, #KEYS do
  scopes[#scopes + 1] = read_task(KEYS[i])
end

-- The phase is the call's; without one, the task's current phase.
local phase = ARGV[6] ~= '' and ARGV[6] or task.phase
local line = 'C'
if phase ~= '' and ORDER[phase] < num(ARGV[7]) then
  line = 'R'
end

local phase_scope
if phase ~= '' then
  local fields = {}
  for i, field in ipairs(PHASE_FIELDS) do
    fields[i] = phase .. '.' .. field
  end
  local v = redis.call('HMGET', KEYS[5], unpack(fields))
  phase_scope = {exec = num(v[1]), inflight = num(v[2]), since = v[3], last = num(v[4]),
                 state = 'open', trip = '', balance = {}, reply = {}, is_phase = true}
  for d, dimension in ipairs(DIMENSIONS) do
    local at = 4 + (d - 1) * 4
    local settled = v[at + 3]
    if dimension == 'latency_ms' then
      settled = with_open_interval(settled, v[2], v[3])
    end
    phase_scope.balance[d] = {limit = v[at + 1], C = num(v[at + 2]), R = num(v[at + 2]),
                              S = num(settled), H = num(v[at + 4])}
    for i = 1, 4 do
      phase_scope.reply[#phase_scope.reply + 1] = i == 3 and settled or v[at + i]
    end
  end
  scopes[#scopes + 1] = phase_scope
end

local function refuses(scope, d)
  local at = scope.is_phase and 4 + d or d
  return scope.balance[d].limit and string.sub(effects, at, at) == 'R'
end

-- Compare --------------------------------------------------------------------------------------

local function stop(code, place, d)
  return {code = code, place = place, d = d}
end

local function first_stop()
  for place, scope in ipairs(scopes) do
    if scope.state == 'killed' or scope.state == 'blocked' then
      return stop('task_' .. scope.state, place, 0)
    end
  end
  for place, scope in ipairs(scopes) do
    for d, dimension in ipairs(DIMENSIONS) do
      local is = scope.balance[d]
      if scope.trip == dimension and refuses(scope, d) and is.S > is.C then
        return stop(scope.trip_code, place, d)
      end
    end
  end
  for place, scope in ipairs(scopes) do
    for d = 1, #DIMENSIONS do
      local is = scope.balance[d]
      if not scope.is_phase and refuses(scope, d) and is.S > is.R then
        return stop('runaway_task', place, d)
      end
    end
  end
  for place, scope in ipairs(scopes) do
    for d = 1, #DIMENSIONS do
      local is = scope.balance[d]
      if refuses(scope, d) and is.S > is[line] then
        return stop(scope.is_phase and 'phase_budget_exceeded' or 'task_budget_exceeded', place, d)
      end
    end
  end
end

local function first_in_flight()
  for place, scope in ipairs(scopes) do
    for d = 1, #DIMENSIONS do
      local is = scope.balance[d]
      if refuses(scope, d) and is.S + is.H > is[line] then
        return stop('budget_in_flight', place, d)
      end
    end
  end
end

local input_low, input, input_nano = num(ARGV[10]), num(ARGV[11]), num(ARGV[12])
local output, output_min, unit_nano = num(ARGV[13]), num(ARGV[14]), num(ARGV[15])
local weight = num(ARGV[16])

local function output_tokens(count)
  return math.ceil(count * weight / 1000)
end

local function affordable_output(d, room)
  if d == 1 then
    return math.floor((room - input) * 1000 / weight)
  end
  if d == 3 and unit_nano > 0 then
    return math.floor((room - input_nano) / unit_nano)
  end
  if d == 4 and room < 1 then
    return -1
  end
  return output
end

-- Returns a verdict, and the stop that made it; lowers `output` to what every line leaves.
local function worst_case()
  local tightest
  for place, scope in ipairs(scopes) do
    for d = 1, #DIMENSIONS do
      if refuses(scope, d) then
        local is = scope.balance[d]
        local affordable = affordable_output(d, is[line] - is.S - is.H)
        if affordable < output then
          output, tightest = affordable, stop('', place, d)
        end
      end
    end
  end
  if not tightest then
    return 'held'
  end
  local slack = input - input_low
  if slack > 0 and output + slack >= output_min then
    return 'count', tightest
  end
  if output >= output_min then
    return 'held'
  end
  local scope = scopes[tightest.place]
  if scope.balance[tightest.d].H > 0 then
    tightest.code = 'budget_in_flight'
    return 'in_flight', tightest
  end
  tightest.code = scope.is_phase and 'phase_budget_exceeded' or 'task_budget_exceeded'
  return 'short', tightest
end

local verdict, stopped = 'held', first_stop()
if stopped then
  verdict = 'refused'
elseif kind ~= 'none' then
  stopped = first_in_flight()
  if stopped then
    verdict = 'in_flight'
  elseif kind == 'worst_case' then
    verdict, stopped = worst_case()
  end
end

-- Act ------------------------------------------------------------------------------------------

local execution = phase_scope and phase_scope.exec or 0
local tripped_now = 0

local function reply(held_tokens, held_nano)
  local out = {verdict, int(now), phase, int(execution), int(held_tokens), int(held_nano),
               int(output), stopped and stopped.place or 0,
               stopped and DIMENSIONS[stopped.d] or '', stopped and stopped.code or '',
               tripped_now, line}
  for _, scope in ipairs(scopes) do
    out[#out + 1] = scope.reply
  end
  return out
end

if verdict == 'refused' or verdict == 'short' then
  redis.call('HINCRBY', KEYS[5], 'refused', 1)
  local scope = scopes[stopped.place]
  local is_line = stopped.code == 'runaway_task' or stopped.code == 'task_budget_exceeded'
  if verdict == 'refused' and is_line and scope.trip == '' and not scope.is_phase then
    scope.reply[4] = int(scope.episode + 1)
    redis.call('HSET', KEYS[4 + stopped.place], 'trip', DIMENSIONS[stopped.d],
      'trip_code', stopped.code, 'trip_ms', int(now), 'episode', scope.reply[4])
    tripped_now = 1
  end
end
if verdict ~= 'held' then
  return reply(input + output_tokens(output_min), 0)
end

local held_tokens = input + output_tokens(output)
local held_nano = input_nano + output * unit_nano

local function hold(key, prefix, scope, ...)
  local since = scope.inflight > 0 and scope.since or int(now)
  redis.call('HSET', key, prefix .. 'inflight', int(scope.inflight + 1), prefix .. 'since', since,
    prefix .. 'tokens.H', int(scope.balance[1].H + held_tokens),
    prefix .. 'nano_usd.H', int(scope.balance[3].H + held_nano),
    prefix .. 'calls.H', int(scope.balance[4].H + 1), ...)
end

for place, scope in ipairs(scopes) do
  if not scope.is_phase then
    hold(KEYS[4 + place], '', scope, 'last', int(now))
  end
end
if phase_scope then
  local another_is_active = task.phase ~= '' and task.phase ~= phase
  local idle = phase_scope.inflight == 0 and now - phase_scope.last >= num(ARGV[17])
  if execution == 0 or (another_is_active and idle) then
    execution = execution + 1
    redis.call('HSET', KEYS[5], 'x.' .. phase .. '.' .. int(execution) .. '.started', int(now))
  end
  hold(KEYS[5], phase .. '.', phase_scope, phase .. '.exec', int(execution),
    phase .. '.last', int(now), 'phase', phase)
end
redis.call('HSET', KEYS[2], 'state', 'held', 'task', KEYS[5], 'phase', phase,
  'exec', int(execution), 'tokens', int(held_tokens), 'nano_usd', int(held_nano),
  'parents', table.concat(KEYS, ' ', 6))
redis.call('ZADD', KEYS[3], now + num(ARGV[3]), call_id)
return reply(held_tokens, held_nano)
