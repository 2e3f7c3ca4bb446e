-- reserve v1: create the task if it is new, compare every budget, hold the amount or say why not.
--
-- KEYS  1 clock  2 call  3 leases  4 task index  5 ledger stream  6 task
--       7.. ancestors, nearest first; at the end, if the call has them, its session's binding, and the
--           versions of gateway keys; the last is the switch of enforcement
-- ARGV  1 call id          2 now_ms, '' for the server's clock (tests give it)
--       3 lease_ms         4 facts of the task that the plan was made with
--       5 snapshot: JSON array of field, value, ... to create the task with; '' = do not create
--       6 phase, '' if the call names none
--       7 first phase (by order) that is held to the cumulative line; 0 = every one
--       8 kind: expected | worst_case | none, or gate: answers, and holds nothing if it may pass;
--         behind `look `: answers as for that kind, and changes nothing, creates nothing
--       9 effects: 8 letters, R refuse, F flag, - not compared; task then phase, by DIMENSIONS
--      10 input tokens, lower bound     11 input tokens to hold      12 their nano-dollars
--      13 output tokens wanted          14 fewest worth admitting    15 nano-dollars of one
--      16 weight of an output token, thousandths of a budget token
--      17 idle_close_ms: an execution idle for so long ends when another phase is active, unless
--         somebody started it (phase.lua)
--      18 model, cut short, kept with the hold   19 about: JSON for the ledger
--      20 gateway key, '' if there is none   21 its version as the plan knows it
--      22 binding of the call's session as the plan knows it, - for none; '' if it has no session
--      23 the words of a plan for loops, lua/loop.lua   24 for grace, lua/grace.lua; '' = none
--      25 soft line: task or phase, place in DIMENSIONS, percent of its limit; '' = none
--      26 windows of spend limits, as lua/limits.lua has them; '' = none
--      27 velocity: policy, span in ms, R or F, lines of tokens, nano_usd, calls or -; '' = none
--      28 the switch as the plan knows it, '' = enforcement is on
--      29 1 = no call starts beside another phase's (EC10), '' = any does
--      30 current phase of the task that the plan's policies were chosen by, '' for none; - = any
--
-- Returns {'absent'}          the task is new and no snapshot was given
--         {'key', text}       the gateway key has another version by now, as JSON; '' = read it anew
--         {'switch', text}    enforcement was switched by now: plan again
--         {'session'}         the call's session is bound to something else by now
--         {'facts', facts}    the snapshot has other facts: plan again
--         {'phase', phase}    the task is in another phase by now: plan again
--         {'lapsed', place, now_ms}  an override of the task (place 1) or of an ancestor has run
--                             out: its limits must be computed anew
--         {'window', now_ms}  a window of a spend limit is not that of now: name them anew
--         {'duplicate'}       this call id was seen before; nothing was changed
--         {verdict, now_ms, phase, execution, held tokens, held nano_usd, output, stop scope (place
--          in the list, from 1), stop dimension, stop code, tripped now (0/1), line 'C'|'R'|'L',
--          loop {repeats, stopped now (0/1), growing} or '', grace or '', velocity,
--          phase that has calls in flight beside this one (it put the call off, or another phase begins
--          beside it) or '', phase that somebody began and nobody ended, while the call names
--          another (EC22), or '', scope, ...}
--                             verdict: held | refused | short | in_flight | count | soft. Nothing is held
--                             unless held; with short, held tokens is what the call needs at least
-- A scope of a task or ancestor is {state, trip, trip_code, episode, L G C R S H of each dimension};
-- that of a window {S H of tokens, nano_usd, calls}; the last one, of the phase, is {L C S H of each
-- dimension}. Velocity is {tokens, nano_usd, calls}, or ''. Missing values are nil. The figures
-- are those before this call; line L: C, but R for the task itself, which is let through to its end; an open latency interval is counted in.
--
-- Order: killed, blocked, tripped, runaway, task, ancestors, windows, phase, loop, velocity, another phase
-- at work, then holds. If one refuses, nothing is held anywhere. The rules are those of
-- core/admission.py, which the tests hold this to.

local call_id, kind, effects = ARGV[1], ARGV[8], ARGV[9]
local looks = string.sub(kind, 1, 5) == 'look '
if looks then
  kind = string.sub(kind, 6)
end
local now = clock(KEYS[1], ARGV[2])

if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'duplicate'}
end

local last_task = #KEYS - 1
local switch = redis.call('GET', KEYS[#KEYS]) or ''
if switch ~= ARGV[28] then
  return {'switch', switch}
end
if ARGV[20] ~= '' then
  if redis.call('HGET', KEYS[last_task], ARGV[20]) ~= ARGV[21] then
    return {'key', redis.call('HGET', KEYS[last_task], ARGV[20] .. ':text') or ''}
  end
  last_task = last_task - 1
end
if ARGV[22] ~= '' then
  if (redis.call('GET', KEYS[last_task]) or '-') ~= ARGV[22] then
    return {'session'}
  end
  last_task = last_task - 1
end

-- Read -----------------------------------------------------------------------------------------

local scopes = {}
local watched = {}  -- balances whose breach refuses, in the order of the rules

local function watch(scope, d, limit, C, R, S, H)
  if limit and string.sub(effects, scope.first_effect + d, scope.first_effect + d) == 'R' then
    watched[#watched + 1] = {scope = scope, d = d, C = num(C), R = num(R), S = num(S), H = num(H)}
  end
end

local function with_open_interval(settled, inflight, since)
  if inflight > 0 then
    return int(num(settled) + elapsed(now, since))
  end
  return settled
end

local imagined = {}  -- fields of a task that is not there and only looked at, by its key

local function read_fields(key, ...)
  local fields = imagined[key]
  if not fields then
    return redis.call('HMGET', key, ...)
  end
  local values = {}
  for place, field in ipairs({...}) do
    values[place] = fields[field] or false
  end
  return values
end

local function imagine_task(key, snapshot)
  local fields, words = {}, cjson.decode(snapshot)
  for place = 1, #words, 2 do
    fields[words[place]] = words[place + 1]
  end
  imagined[key] = fields
end

local function read_task(key)
  local v = read_fields(key,
    'facts', 'phase', 'expires', 'inflight', 'since', 'state', 'trip', 'trip_code', 'episode',
    'tokens.L', 'tokens.G', 'tokens.C', 'tokens.R', 'tokens.S', 'tokens.H',
    'latency_ms.L', 'latency_ms.G', 'latency_ms.C', 'latency_ms.R', 'latency_ms.S', 'latency_ms.H',
    'nano_usd.L', 'nano_usd.G', 'nano_usd.C', 'nano_usd.R', 'nano_usd.S', 'nano_usd.H',
    'calls.L', 'calls.G', 'calls.C', 'calls.R', 'calls.S', 'calls.H', 'wall', 'generation')
  local inflight = num(v[4])
  v[20] = with_open_interval(v[20], inflight, v[5])
  return {
    key = key, prefix = '', first_effect = 0, values = v, facts = v[1], phase = v[2] or '',
    expires = v[3], inflight = inflight, since = v[5], state = v[6], trip = v[7],
    trip_code = v[8] or '', episode = num(v[9]), tokens = v[15], nano_usd = v[27], calls = v[33],
    wall = v[34], generation = v[35] or '1', reply = {unpack(v, 6, 33)},
  }
end

local function add_task(scope)
  local v, place = scope.values, #scopes + 1
  scopes[place], scope.place = scope, place
  for d = 1, 4 do
    local at = 4 + d * 6
    watch(scope, d, v[at], v[at + 2], v[at + 3], v[at + 4], v[at + 5])
  end
end

-- On the basis wall, what executions with an explicit start took from that to their end, or to now,
-- beyond the time with a call open. `open_ms` is how long there has been one open by now.
local function wall_more(key, phase, current, open_ms)
  local more = 0
  for n = 1, num(current) do
    local record = execution_record(phase, n)
    local is = redis.call('HMGET', key, record .. 'explicit', record .. 'started',
      record .. 'wall_ms', record .. 'latency_ms', record .. 'idle_ms')
    if is[1] then
      local waited = num(is[4]) + (n == num(current) and open_ms or 0)
      more = more + (is[3] and num(is[3]) or wall_time(now, is[2], is[5])) - waited
    end
  end
  return more
end

local function add_phase(key, phase, wall)
  local prefix, place = phase .. '.', #scopes + 1
  local tokens, latency = prefix .. 'tokens.', prefix .. 'latency_ms.'
  local nano_usd, calls = prefix .. 'nano_usd.', prefix .. 'calls.'
  local v = read_fields(key,
    prefix .. 'exec', prefix .. 'inflight', prefix .. 'since', prefix .. 'last',
    tokens .. 'L', tokens .. 'C', tokens .. 'S', tokens .. 'H',
    latency .. 'L', latency .. 'C', latency .. 'S', latency .. 'H',
    nano_usd .. 'L', nano_usd .. 'C', nano_usd .. 'S', nano_usd .. 'H',
    calls .. 'L', calls .. 'C', calls .. 'S', calls .. 'H', prefix .. 'closed')
  local inflight = num(v[2])
  local settled = num(v[11])
  v[11] = with_open_interval(v[11], inflight, v[3])
  if wall then
    v[11] = int(num(v[11]) + wall_more(key, phase, v[1], num(v[11]) - settled))
  end
  local scope = {
    key = key, prefix = prefix, first_effect = 4, is_phase = true, place = place,
    execution = num(v[1]), inflight = inflight, since = v[3], last = num(v[4]),
    tokens = v[8], nano_usd = v[16], calls = v[20], closed = v[1] and v[1] == v[21],
    reply = {unpack(v, 5, 20)},
  }
  scopes[place] = scope
  for d = 1, 4 do
    local at = 1 + d * 4
    watch(scope, d, v[at], v[at + 1], v[at + 1], v[at + 2], v[at + 3])
  end
  return scope
end

local task = read_task(KEYS[6])
if not task.facts then
  if ARGV[5] == '' then
    return {'absent'}
  end
  if looks then
    imagine_task(KEYS[6], ARGV[5])
  else
    create_task(KEYS[6], KEYS[4], now, ARGV[4], ARGV[5])
  end
  task = read_task(KEYS[6])
end
if task.facts ~= ARGV[4] then
  return {'facts', task.facts}
end
if ARGV[6] == '' and ARGV[30] ~= '-' and ARGV[30] ~= task.phase then
  return {'phase', task.phase}
end
add_task(task)
for i = 7, last_task do
  add_task(read_task(KEYS[i]))
end
local windows = read_windows(ARGV[26], now)
if not windows then
  return {'window', int(now)}
end
for place, scope in ipairs(scopes) do
  if scope.expires and now >= num(scope.expires) then
    return {'lapsed', place, int(now)}
  end
end

for _, window in ipairs(windows) do
  scopes[#scopes + 1], window.place = window, #scopes + 1
  for d, dimension in ipairs(DIMENSIONS) do
    local line = tonumber(window.lines[dimension])
    if line then
      local S, H = in_window(window, dimension)
      watched[#watched + 1] = {scope = window, d = d, C = line, R = line, S = S, H = H}
    end
  end
end

-- The phase is the call's; without one, the task's current phase.
local phase = ARGV[6] ~= '' and ARGV[6] or task.phase
local line = 'C'
if phase ~= '' and ORDER[phase] < num(ARGV[7]) then
  line = 'R'
end
local phase_scope = phase ~= '' and add_phase(KEYS[6], phase, task.wall) or nil

-- SL-9: once only PR and MONITOR remain, a task that is nearly within is let through to its end; it is
-- held to the runaway line from then on. Returns whether it is, and whether that is new.
local function may_complete()
  if line ~= 'C' or (phase ~= 'PR' and phase ~= 'MONITOR') then
    return false, false
  end
  local is = redis.call('HMGET', KEYS[6], 'completion', 'tokens.A', 'nano_usd.A', 'REVIEW.exec',
    'REVIEW.closed', 'REVIEW.inflight', 'REVIEW.last', 'REVIEW.past')
  if is[1] == task.generation then
    return true, false
  end
  local idle = num(is[6]) == 0 and now - num(is[7]) >= num(ARGV[17])
  local review_closed = num(is[4]) > num(is[8])
    and (is[4] == is[5] or idle and not is_explicit(KEYS[6], 'REVIEW', num(is[4])))
  local within = is[2] and num(task.values[14]) <= num(is[2])
    and (not is[3] or num(task.values[26]) <= num(is[3]))
  local allowed = review_closed and within or false
  return allowed, allowed
end

local exempt, exempt_now = may_complete()

local function line_of(scope)
  return exempt and scope.place == 1 and 'R' or line
end

-- Compare --------------------------------------------------------------------------------------

local function stop(code, scope, d)
  return {code = code, scope = scope, place = scope.place, d = d, dimension = DIMENSIONS[d] or ''}
end

local function exceeded(scope)
  if scope.is_window then
    return 'spend_limit_exceeded'
  end
  return scope.is_phase and 'phase_budget_exceeded' or 'task_budget_exceeded'
end

local function first_stop()
  for _, state in ipairs({'killed', 'blocked'}) do
    for _, scope in ipairs(scopes) do
      if scope.state == state then
        return stop('task_' .. state, scope, 0)
      end
    end
  end
  for _, is in ipairs(watched) do
    if is.S > is.C and is.scope.trip == DIMENSIONS[is.d] then
      return stop(is.scope.trip_code, is.scope, is.d)
    end
  end
  for _, is in ipairs(watched) do
    if is.S > is.R and not is.scope.is_phase and not is.scope.is_window then
      return stop('runaway_task', is.scope, is.d)
    end
  end
  for _, is in ipairs(watched) do
    if is.S > is[line_of(is.scope)] then
      return stop(exceeded(is.scope), is.scope, is.d)
    end
  end
end

local function first_in_flight()
  for _, is in ipairs(watched) do
    if is.S + is.H > is[line_of(is.scope)] then
      return stop('budget_in_flight', is.scope, is.d)
    end
  end
end

local input_low, input, input_nano = amount(ARGV[10]), amount(ARGV[11]), amount(ARGV[12])
local output, output_min, unit_nano = amount(ARGV[13]), amount(ARGV[14]), amount(ARGV[15])
local weight = num(ARGV[16])

local function output_tokens(count)
  return math.ceil(count * weight / 1000)
end

local function fitting(rest, each, wanted)
  if rest < 0 then
    return -1
  end
  return each > 0 and math.floor(rest / each) or wanted
end

local function affordable_output(d, room, wanted, input_tokens)
  if d == 1 then
    return fitting((room - input_tokens) * 1000, weight, wanted)
  end
  if d == 3 then
    return fitting(room - input_nano, unit_nano, wanted) + input - input_tokens
  end
  if d == 4 and room < 1 then
    return -1
  end
  return wanted
end

-- Returns a verdict, and the stop that made it; lowers `output` to what every line leaves.
local function worst_case()
  local wanted, best, tightest = output, output, nil
  for _, is in ipairs(watched) do
    local room = is[line_of(is.scope)] - is.S - is.H
    local affordable = affordable_output(is.d, room, wanted, input)
    if affordable < output then
      output, tightest = affordable, is
    end
    best = math.min(best, affordable_output(is.d, room, wanted, input_low))
  end
  if not tightest then
    return 'held'
  end
  if best > output and best >= output_min then
    return 'count'
  end
  if output >= output_min then
    return 'held'
  end
  if tightest.H > 0 then
    return 'in_flight', stop('budget_in_flight', tightest.scope, tightest.d)
  end
  return 'short', stop(exceeded(tightest.scope), tightest.scope, tightest.d)
end

local rate = {}
for word in string.gmatch(ARGV[27], '[^ ]+') do
  rate[#rate + 1] = word
end
local rate_used = rate[1] and velocity(KEYS[6], now, num(rate[2])) or nil

local function too_fast()
  for i, d in ipairs({1, 3, 4}) do
    local line = tonumber(rate[3 + i])
    if rate_used and rate[3] == 'R' and line and rate_used[i] > line then
      local fast = stop('velocity_exceeded', task, d)
      fast.used, fast.line = rate_used[i], line
      return fast
    end
  end
end

local loop = ARGV[23] ~= '' and read_loop(ARGV[23], KEYS[6], now) or nil

local function in_circles()
  return loop and is_loop(loop) and stop('loop_detected', task, 0) or nil
end

local grace, graced = '', nil  -- the name of the stop that the call passes by grace

-- Ask for grace for a call that is stopped; returns what stops it still.
local function with_grace(stopped)
  local name, scope = stop_with_grace(stopped, loop), stopped.scope
  if not name then
    return stopped
  end
  local allowed, least
  grace, allowed, least = ask_grace(ARGV[24], scope.key, name, input_low, input, weight)
  if grace ~= 'admitted' then
    return stopped
  end
  local others = {}
  for _, is in ipairs(watched) do
    if is.scope ~= scope or stopped.code == 'loop_detected' then
      others[#others + 1] = is
    end
  end
  watched, output, output_min = others, allowed, least
  graced = {name = name, key = scope.key}
  return first_stop() or too_fast()
end

-- Whether the soft line is reached (core/shaping.py): then the call is to be planned anew.
local function over_soft_line()
  local place, d, percent = string.match(ARGV[25], '^(%a+) (%d) (%d+)$')
  local scope, at = task, 5 + 6 * (num(d) - 1)
  if place == 'phase' then
    scope, at = phase_scope, 1 + 4 * (num(d) - 1)
  end
  if not place or not scope or not scope.reply[at] then
    return false
  end
  local allowed, S = num(scope.reply[at]), num(scope.reply[at + 2])
  if scope == task then
    allowed, S = allowed + num(scope.reply[at + 1]), num(scope.reply[at + 4])
  end
  return S > 0 and (allowed <= 0 or S / allowed >= num(percent) / 100)
end

local parallel = ''  -- the phase whose calls put this one off, or beside which it begins
local unended = ''   -- the phase that somebody began and did not end, while the call names another

-- A phase may have to wait until no other one works (core/parallel_phases.py).
local function must_wait()
  if ARGV[29] ~= '1' or not phase_scope then
    return nil
  end
  parallel = another_at_work(KEYS[6], phase)
  return parallel ~= '' and stop('budget_in_flight', phase_scope, 0) or nil
end

local verdict, stopped = 'held', first_stop() or in_circles() or too_fast()
if stopped and ARGV[24] ~= '' then
  stopped = with_grace(stopped)
end
if grace == 'count' then
  verdict, stopped = 'count', nil
elseif stopped then
  verdict = 'refused'
elseif not graced and over_soft_line() then
  verdict = 'soft'
else
  local compares = kind ~= 'none' and kind ~= 'gate'
  stopped = must_wait() or compares and first_in_flight() or nil
  if stopped then
    verdict = 'in_flight'
  elseif kind == 'worst_case' then
    verdict, stopped = worst_case()
  end
end

-- Act ------------------------------------------------------------------------------------------

local execution = phase_scope and phase_scope.execution or 0
local tripped_now = 0

local function reply(held_tokens, held_nano, held_output)
  local out = {verdict, int(now), phase, int(execution), int(held_tokens), int(held_nano),
               int(held_output), stopped and stopped.place or 0,
               stopped and stopped.dimension or '', stopped and stopped.code or '',
               tripped_now, exempt and 'L' or line,
               loop and {int(loop.repeats), loop.stopped_now or 0, int(loop.growing)} or '',
               grace, rate_used or '', parallel, unended}
  for _, scope in ipairs(scopes) do
    out[#out + 1] = scope.reply
  end
  return out
end

local function held_amounts()
  return amount(input + output_tokens(output)), amount(input_nano + output * unit_nano)
end

local function needed_tokens()
  return verdict == 'short' and amount(input + output_tokens(output_min)) or 0
end

if verdict == 'count' or verdict == 'soft' or graced and verdict ~= 'held' then
  grace = ''
end
if verdict == 'count' or verdict == 'soft' then
  return reply(0, 0, 0)
end
if looks then
  if verdict ~= 'held' then
    return reply(needed_tokens(), 0, 0)
  end
  local tokens, nano = held_amounts()
  return reply(tokens, nano, output)
end

if verdict == 'refused' or verdict == 'short' then
  redis.call('HINCRBY', KEYS[6], 'refused', 1)
  local scope = stopped.scope
  local is_line = stopped.code == 'runaway_task' or stopped.code == 'task_budget_exceeded'
  if verdict == 'refused' and is_line and not scope.trip then
    local episode = int(scope.episode + 1)
    redis.call('HSET', scope.key, 'trip', stopped.dimension, 'trip_code', stopped.code,
      'trip_ms', int(now), 'episode', episode)
    scope.reply[4], tripped_now = episode, 1
  end
end
if verdict == 'refused' and stopped.code == 'loop_detected' and not loop.stopped then
  stop_by_loop(loop, KEYS[6], call_id, now)
end
if verdict == 'refused' and stopped.code == 'velocity_exceeded' then
  stopped.since = note_too_fast(KEYS[6], now, num(rate[2]))
end

-- S, H and C of one balance of a scope, for the ledger; - where there is none.
local function standing_words(scope, d)
  local reply = scope and scope.reply or {}
  local at = scope and scope.is_phase and 4 * d - 3 or 6 * d - 1
  local C, S, H = reply[at + 2], reply[at + 4], reply[at + 5]
  if scope and scope.is_phase then
    C, S, H = reply[at + 1], reply[at + 2], reply[at + 3]
  end
  return (S or '-') .. ' ' .. (H or '-') .. ' ' .. (C or '-')
end

-- Why a call was refused: code, 1 if that tripped the task, episode (of velocity: when it began, ms),
-- kind and name of the scope, dimension, S, L with grants, and the line.
local function stop_words()
  local scope, d = stopped.scope, stopped.d
  if scope.is_window then
    local S, line = in_window(scope, stopped.dimension), int(num(scope.lines[stopped.dimension]))
    return table.concat({stopped.code, 0, 0, scope.kind, scope.name, stopped.dimension, int(S), line,
      line}, ' ')
  end
  if stopped.used then
    return table.concat({stopped.code, 0, stopped.since, 'rate', rate[1], stopped.dimension,
      int(stopped.used), int(stopped.line), int(stopped.line)}, ' ')
  end
  local kind = scope.is_phase and 'phase' or scope.place == 1 and 'task' or 'parent'
  local name = scope.is_phase and phase or string.match(scope.key, '[^:]*$')
  local words = {stopped.code, tripped_now, scope.reply[4] or '0', kind, name}
  if scope.is_phase then
    words[3] = '0'
  end
  if d > 0 then
    local at = scope.is_phase and 4 * d - 3 or 6 * d - 1
    local L, G, S = scope.reply[at], scope.reply[at + 1], scope.reply[at + 4]
    local C = stopped.code == 'runaway_task' and scope.reply[at + 3]
      or scope.reply[line_of(scope) == 'C' and at + 2 or at + 3]
    if scope.is_phase then
      G, C, S = 0, scope.reply[at + 1], scope.reply[at + 2]
    end
    words[6], words[7] = DIMENSIONS[d], int(num(S))
    words[8], words[9] = int(num(L) + num(G)), int(num(C))
  end
  return table.concat(words, ' ')
end

local function tell_of_refusal()
  local nothing = {tokens = '0', nano_usd = '0'}
  redis.call('XADD', KEYS[STREAM], '*', with_more({
    'e', call_words('refused', call_id, now, '0', {number = int(NUMBER)}, phase,
      int(execution), nothing, nothing, '0'),
    'a', ARGV[19], 's', stop_words(),
    'b', table.concat({standing_words(task, 1), standing_words(task, 2), standing_words(task, 3),
      standing_words(phase_scope, 1)}, ' ')}, nil, task.values[35] or nil))
end

if verdict ~= 'held' then
  tell_of_refusal()
  return reply(needed_tokens(), 0, 0)
end

if exempt_now then
  redis.call('HSET', KEYS[6], 'completion', task.generation)
  tell_of_task('act', KEYS[6], now, ' ' .. int(NUMBER) .. ' -',
    '{"action":"completion.allow","actor":"tollgate","reason":"only PR and MONITOR remain",' ..
    '"details":{"call":"' .. call_id .. '"}}')
end
if kind == 'gate' then
  return reply(0, 0, 0)
end

local held_tokens, held_nano = held_amounts()

local function hold(scope)
  local prefix, since = scope.prefix, scope.inflight > 0 and scope.since or int(now)
  redis.call('HSET', scope.key,
    prefix .. 'inflight', int(scope.inflight + 1), prefix .. 'since', since,
    prefix .. 'last', int(now),
    prefix .. 'tokens.H', int(num(scope.tokens) + held_tokens),
    prefix .. 'nano_usd.H', int(num(scope.nano_usd) + held_nano),
    prefix .. 'calls.H', int(num(scope.calls) + 1))
end

-- Whether somebody began a phase in words and nobody ended it: then it stays the current one (EC22).
local function goes_on(of)
  if of == '' then
    return false
  end
  local is = redis.call('HMGET', KEYS[6], of .. '.exec', of .. '.closed')
  return is[1] and is[1] ~= is[2] and is_explicit(KEYS[6], of, num(is[1]))
end

if phase_scope then
  local another_is_active = task.phase ~= '' and task.phase ~= phase
  local idle = phase_scope.inflight == 0 and now - phase_scope.last >= num(ARGV[17])
  if execution == 0 or phase_scope.closed
      or (another_is_active and idle and not is_explicit(KEYS[6], phase, execution)) then
    execution = execution + 1
    redis.call('HSET', KEYS[6], phase .. '.exec', int(execution),
      execution_record(phase, execution) .. 'started', int(now))
    tell_of_execution(KEYS[6], now, phase, int(execution))
  end
  if phase_scope.inflight <= 0 and task.inflight > 0 then
    parallel = begin_beside(KEYS[6], phase)
  end
  if task.phase ~= phase then
    if goes_on(task.phase) then
      unended = task.phase
    else
      redis.call('HSET', KEYS[6], 'phase', phase)
    end
  end
end
if task.state == 'completed' then
  redis.call('HSET', KEYS[6], 'state', 'reopened', 'state_ms', int(now))
end
for _, scope in ipairs(scopes) do
  if not scope.is_window then
    hold(scope)
  end
end
redis.call('HSET', KEYS[2], 'state', 'held', 'task', KEYS[6], 'phase', phase,
  'exec', int(execution), 'tokens', int(held_tokens), 'nano_usd', int(held_nano),
  'number', int(NUMBER), 'model', ARGV[18],
  'parents', table.concat(KEYS, ' ', 7, last_task))
if loop then
  note_call(loop, KEYS[2], now)
end
if graced then
  give_grace(graced.key, graced.name, KEYS[2], call_id, now, held_tokens)
end
if #windows > 0 then
  keep_limits(KEYS[2], hold_in_windows(windows, now, held_tokens, held_nano, 1))
end
if rate[1] then
  keep_limits(KEYS[2], '', rate[2])
  count_in_rate(KEYS[6], now, num(rate[2]), 0, 0, 1)
end
redis.call('ZADD', KEYS[3], now + num(ARGV[3]), call_id)
return reply(held_tokens, held_nano, output)
