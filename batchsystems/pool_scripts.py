"""What the hub of a pool does in one step each: scripts that Redis runs, and the keys that they work on.

Redis runs one script at a time, so each of these is atomic, and whoever's answer is lost can ask again: what was
submitted is there, what was claimed is handed out again by the next beat, what has ended is told until it is taken.

A *space* belongs to one user with one signing key; its keys begin with ``jobtree:user:NAME:KEY:``, S below. Redis can
keep its users out of each other's spaces. In a space

    S payload, S line, S seq     name -> signed command; line; number in the order of submission
    S q:LINE                     the names that wait, by number. A line holds the jobs of one run and one shape, and is
                                 named "PRIORITY CPU MEMORY GPUS RUN" (thousandths of a core, bytes)
    S lines, S jumped, S reserved  lines with a job in them; how often each was overtaken; the node that is kept free
    S claim, S held:NODE         who runs what
    S cancel:NODE                name -> grace, until the job has ended
    S ends:RUN                   name -> signed end, until the run's master has taken it
    S run:RUN, S runs, S avoid:RUN, S use   names of a run; about the run; hosts it avoids; what runs have in use
    S nodes, S size, S free, S beat, S seen, S timeout   about nodes: each a field of every hash
    S drain, S sick, S fails, S idle, S health:NODE, S gone   the same; `gone`: those that fell silent
    S wake:WHO                   a list that somebody waits for
    S recovery, S tick, S watchman, S largest

and beside the spaces ``jobtree:users``, ``jobtree:place:PLACE`` (what nodes of one machine have in use) and
``jobtree:boot``, which changes whenever Redis was started anew: with that its scripts are gone, and whoever loads them
again runs `RECOVER` first. After a restart Redis may know less than it did, for instance not that a job is running. So
what was queued before waits until every node has had its time to say what it runs (see batchsystems.pool_watch).

Times that decide anything are measured by nodes, never by the clock of Redis, which may be set. The script of a claim
is in batchsystems.pool_claim.
"""

from __future__ import annotations

import hashlib

_PRELUDE = """
local S = ARGV[1]
local call = redis.call
local function text(n) return string.format('%.0f', n) end
local function now() local t = call('TIME'); return t[1] * 1000 + math.floor(t[2] / 1000) end
local function run_of(name) return string.match(name, '^(.*)%.[^.]*$') or name end
local function parts(line)
  local priority, cpu, memory, gpus, run = string.match(line, '^(%S+) (%d+) (%d+) (%d+) (.*)$')
  return tonumber(priority), tonumber(cpu), tonumber(memory), tonumber(gpus), run
end
local function wake(who)
  local key = S .. 'wake:' .. who
  if call('LLEN', key) == 0 then call('LPUSH', key, '1'); call('EXPIRE', key, 600) end
end
local function wake_idle(number)
  if number > 0 then
    for _, node in ipairs(call('SPOP', S .. 'idle', number)) do wake(node) end
  end
end
local function recovery()
  local boot = call('GET', 'jobtree:boot')
  if not boot then
    boot = 'flushed ' .. text(now())
    call('SET', 'jobtree:boot', boot)
  end
  local known = call('HMGET', S .. 'recovery', 'boot', 'seq', 'over')
  if known[1] ~= boot then
    known = {boot, call('GET', S .. 'tick') or '0', '0'}
    call('HSET', S .. 'recovery', 'boot', boot, 'seq', known[2], 'over', '0')
  end
  return boot, known[3] == '0' and known[2] or nil
end
local function charge(line, sign)
  local _, cpu, memory, _, run = parts(line)
  for what, amount in pairs({['c ' .. run] = cpu, ['m ' .. run] = memory}) do
    if amount ~= 0 and call('HINCRBY', S .. 'use', what, text(sign * amount)) <= 0 then
      call('HDEL', S .. 'use', what)
    end
  end
end
local function enqueue(name, line)
  call('ZADD', S .. 'q:' .. line, call('HGET', S .. 'seq', name), name)
  call('SADD', S .. 'lines', line)
end
local function dequeue(name, line)
  local found = call('ZREM', S .. 'q:' .. line, name) == 1
  if found and call('ZCARD', S .. 'q:' .. line) == 0 then
    call('SREM', S .. 'lines', line)
    call('HDEL', S .. 'jumped', line)
    call('HDEL', S .. 'reserved', line)
  end
  return found
end
local function claim(name, line, node)
  call('HSET', S .. 'claim', name, node)
  call('SADD', S .. 'held:' .. node, name)
  charge(line, 1)
end
local function unclaim(name, line)
  local node = call('HGET', S .. 'claim', name)
  if node then
    call('HDEL', S .. 'claim', name)
    call('SREM', S .. 'held:' .. node, name)
    call('HDEL', S .. 'cancel:' .. node, name)
    charge(line, -1)
  end
end
local function forget(name)
  local line = call('HGET', S .. 'line', name)
  if line then
    dequeue(name, line)
    unclaim(name, line)
    for _, kind in ipairs({'payload', 'line', 'seq'}) do call('HDEL', S .. kind, name) end
    call('SREM', S .. 'run:' .. run_of(name), name)
  end
end
local function add(name, line, payload)
  call('HSET', S .. 'payload', name, payload)
  call('HSET', S .. 'line', name, line)
  call('HSET', S .. 'seq', name, call('INCR', S .. 'tick'))
  call('SADD', S .. 'run:' .. run_of(name), name)
  call('HSETNX', S .. 'runs', run_of(name), '{}')
end
local function hand_back(name)
  local line = call('HGET', S .. 'line', name)
  if line then unclaim(name, line); enqueue(name, line) end
end
local function drop_node(node)
  local names = call('SMEMBERS', S .. 'held:' .. node)
  for _, name in ipairs(names) do hand_back(name) end
  for _, kind in ipairs({'nodes', 'size', 'free', 'beat', 'seen', 'timeout', 'drain', 'sick', 'fails'}) do
    call('HDEL', S .. kind, node)
  end
  call('SREM', S .. 'idle', node)
  call('DEL', S .. 'held:' .. node, S .. 'cancel:' .. node, S .. 'wake:' .. node)
  wake_idle(#names)
  return #names
end
"""

# ARGV: space, name of the user with the key, [run, about it] ..., [name, line, payload] ... in JSON.
# Nothing is submitted if a name is taken; those are returned.
_SUBMIT = """
call('SADD', 'jobtree:users', ARGV[2])
recovery()
local new, taken = {}, {}
for _, job in ipairs(cjson.decode(ARGV[4])) do
  local before = call('HGET', S .. 'payload', job[1])
  if before then
    if before ~= job[3] then table.insert(taken, job[1]) end
  elseif call('HEXISTS', S .. 'ends:' .. run_of(job[1]), job[1]) == 0 then
    table.insert(new, job)
  end
end
if #taken > 0 then return taken end
for _, run in ipairs(cjson.decode(ARGV[3])) do
  call('HSET', S .. 'runs', run[1], run[2])
  call('HSET', S .. 'seen', 'run ' .. run[1], text(now()))
end
for _, job in ipairs(new) do
  add(job[1], job[2], job[3])
  enqueue(job[1], job[2])
end
wake_idle(#new)
return {}
"""

# ARGV: space, user, node, number of the beat, about the node, cpu, memory, host, timeout (ms), period (ms), health,
# names that it runs, names that it gives back (these three in JSON), graphics cards.
# Returns in JSON: unknown, kill, again, cancel, watch.
_BEAT = """
local node, moment = ARGV[3], now()
call('SADD', 'jobtree:users', ARGV[2])
local boot, held_back = recovery()
call('HSET', S .. 'nodes', node, ARGV[5])
call('HSET', S .. 'beat', node, ARGV[4])
call('HSET', S .. 'seen', node, text(moment))
call('HSET', S .. 'size', node, ARGV[6] .. ' ' .. ARGV[7] .. ' ' .. ARGV[14] .. ' ' .. ARGV[8])
call('HSET', S .. 'timeout', node, ARGV[9])
for what, size in pairs({cpu = ARGV[6], memory = ARGV[7], gpus = ARGV[14]}) do
  if tonumber(size) > tonumber(call('HGET', S .. 'largest', what) or 0) then
    call('HSET', S .. 'largest', what, size)
  end
end
for _, name in ipairs(cjson.decode(ARGV[13])) do
  if call('HGET', S .. 'claim', name) == node then hand_back(name); wake_idle(1) end
end
local runs, answer = {}, {unknown = {}, kill = {}, again = {}, cancel = {}, boot = boot}
for _, name in ipairs(cjson.decode(ARGV[12])) do
  runs[name] = true
  local owner, line = call('HGET', S .. 'claim', name), call('HGET', S .. 'line', name)
  if owner and owner ~= node then
    table.insert(answer.kill, name)
  elseif not line then
    table.insert(answer.unknown, name)
  elseif not owner then
    dequeue(name, line)
    claim(name, line, node)
  end
end
for _, name in ipairs(call('SMEMBERS', S .. 'held:' .. node)) do
  local line, payload = call('HGET', S .. 'line', name), call('HGET', S .. 'payload', name)
  if not line or not payload then
    call('SREM', S .. 'held:' .. node, name)  -- somebody has removed a part of it by hand
    call('HDEL', S .. 'claim', name)
  elseif not runs[name] then
    table.insert(answer.again, {name, line, payload})
  end
end
local cancels = call('HGETALL', S .. 'cancel:' .. node)
for i = 1, #cancels, 2 do answer.cancel[cancels[i]] = cancels[i + 1] end
call('LPUSH', S .. 'health:' .. node, ARGV[11])
call('LTRIM', S .. 'health:' .. node, 0, 719)
call('EXPIRE', S .. 'health:' .. node, 86400)
local watchman = call('GET', S .. 'watchman')
if not watchman or watchman == node then
  call('SET', S .. 'watchman', node, 'PX', text(3 * tonumber(ARGV[10]) + 1000))
  local function pairs_of(key)
    local found, made = call('HGETALL', S .. key), {}
    for i = 1, #found, 2 do made[found[i]] = found[i + 1] end
    return made
  end
  answer.watch = {beats = pairs_of('beat'), timeouts = pairs_of('timeout'), recovering = held_back and boot or false}
end
return cjson.encode(answer)
"""

# ARGV: space, node, [name, line, payload] ... in JSON: what it runs and the hub does not know.
_ASSERT = """
for _, job in ipairs(cjson.decode(ARGV[3])) do
  if call('HEXISTS', S .. 'line', job[1]) == 0 then
    add(job[1], job[2], job[3])
    claim(job[1], job[2], ARGV[2])
  end
end
"""

# ARGV: space, node, the number of the beat after which it has been silent.
_ABANDON = """
if call('HGET', S .. 'beat', ARGV[2]) ~= ARGV[3] then return -1 end
local host = string.match(call('HGET', S .. 'size', ARGV[2]) or '', '^%S+ %S+ %S+ (.*)$')
local number = drop_node(ARGV[2])
call('LPUSH', S .. 'gone', cjson.encode({node = ARGV[2], host = host, at = now(), jobs = number}))
call('LTRIM', S .. 'gone', 0, 49)
return number
"""

# ARGV: space, node, place. It has nothing any more.
_LEAVE = """
if ARGV[3] ~= '' then call('HDEL', 'jobtree:place:' .. ARGV[3], ARGV[2]) end
return drop_node(ARGV[2])
"""

# ARGV: space, boot. Every node has had its time to say what it runs.
_RECOVERED = """
if call('HGET', S .. 'recovery', 'boot') == ARGV[2] then
  call('HSET', S .. 'recovery', 'over', '1')
  wake_idle(call('SCARD', S .. 'idle'))
end
"""

# ARGV: space, runs, names that were taken, whether to count; JSON, JSON, "1" or "0".
# Returns in JSON: ends, and if wanted queued, sizes, free.
_NEWS = """
local answer = {ends = {}}
for _, name in ipairs(cjson.decode(ARGV[3])) do call('HDEL', S .. 'ends:' .. run_of(name), name) end
local queued = 0
for _, run in ipairs(cjson.decode(ARGV[2])) do
  call('HSET', S .. 'seen', 'run ' .. run, text(now()))
  local found = call('HRANDFIELD', S .. 'ends:' .. run, 2000, 'WITHVALUES')
  for i = 1, #found, 2 do table.insert(answer.ends, {found[i], found[i + 1]}) end
  if ARGV[4] == '1' then
    for _, line in ipairs(call('SMEMBERS', S .. 'lines')) do
      local _, _, _, _, owner = parts(line)
      if owner == run then queued = queued + call('ZCARD', S .. 'q:' .. line) end
    end
  end
end
if ARGV[4] == '1' then
  answer.queued = queued
  answer.sizes = call('HVALS', S .. 'size')
  answer.free = call('HVALS', S .. 'free')
  answer.timeouts = call('HVALS', S .. 'timeout')
  answer.largest = call('HMGET', S .. 'largest', 'cpu', 'memory', 'gpus')
  answer.jobs = {}
  for _, run in ipairs(cjson.decode(ARGV[2])) do
    for _, name in ipairs(call('SMEMBERS', S .. 'run:' .. run)) do table.insert(answer.jobs, name) end
  end
end
return cjson.encode(answer)
"""

# ARGV: space, grace, names in JSON. Returns those that waited and are gone; the others are asked to end.
_CANCEL = """
local removed = {}
for _, name in ipairs(cjson.decode(ARGV[3])) do
  local line, node = call('HGET', S .. 'line', name), call('HGET', S .. 'claim', name)
  if node then
    local before = call('HGET', S .. 'cancel:' .. node, name)
    if not before or tonumber(ARGV[2]) < tonumber(before) then call('HSET', S .. 'cancel:' .. node, name, ARGV[2]) end
    wake(node)
  elseif line then
    forget(name)
    table.insert(removed, name)
  end
end
return removed
"""

# ARGV: space, beginning of runs' names. Returns names that are queued, running, or whose end was not taken.
_LIST = """
local names = {}
for _, run in ipairs(call('HKEYS', S .. 'runs')) do
  if run == ARGV[2] or string.sub(run, 1, #ARGV[2] + 1) == ARGV[2] .. '.' then
    for _, key in ipairs({'run:', 'ends:'}) do
      local found = call(key == 'run:' and 'SMEMBERS' or 'HKEYS', S .. key .. run)
      for _, name in ipairs(found) do table.insert(names, name) end
    end
  end
end
return names
"""

# ARGV: space, run, hosts in JSON.
_AVOID = """
call('DEL', S .. 'avoid:' .. ARGV[2])
for _, host in ipairs(cjson.decode(ARGV[3])) do call('SADD', S .. 'avoid:' .. ARGV[2], host) end
call('EXPIRE', S .. 'avoid:' .. ARGV[2], 2592000)
"""

# ARGV: space, days. Runs that have nothing there, and whose master has not asked for so long, are forgotten.
_SWEEP = """
local before = now() - tonumber(ARGV[2]) * 86400000
for _, run in ipairs(call('HKEYS', S .. 'runs')) do
  local seen = tonumber(call('HGET', S .. 'seen', 'run ' .. run) or 0)
  if seen < before and call('SCARD', S .. 'run:' .. run) == 0 then
    call('HDEL', S .. 'runs', run)
    call('HDEL', S .. 'seen', 'run ' .. run)
    call('DEL', S .. 'avoid:' .. run)
  end
end
"""

# ARGV: something that no other start has. Not of one space: whoever notices the restart tells all.
RECOVER = "redis.call('SET', 'jobtree:boot', ARGV[1])"


class Script:
    """One script: its text, and the name by which Redis has it once it was loaded."""

    def __init__(self, body: str) -> None:
        self.text = _PRELUDE + body
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SUBMIT = Script(_SUBMIT)
BEAT = Script(_BEAT)
ASSERT = Script(_ASSERT)
ABANDON = Script(_ABANDON)
LEAVE = Script(_LEAVE)
RECOVERED = Script(_RECOVERED)
NEWS = Script(_NEWS)
CANCEL = Script(_CANCEL)
LIST = Script(_LIST)
AVOID = Script(_AVOID)
SWEEP = Script(_SWEEP)

ALL = (SUBMIT, BEAT, ASSERT, ABANDON, LEAVE, RECOVERED, NEWS, CANCEL, LIST, AVOID, SWEEP)
