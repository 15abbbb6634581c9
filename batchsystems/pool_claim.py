"""Which job a node gets: the script of a claim.

Of the lines that fit what the node has free it takes those of the highest priority; of these, those of the run with the
least in use; of these the largest, and then the oldest. So no job that fits is held up by one that does not, large ones
find the room that small ones would fill, and runs share a pool evenly.

Alone that would starve some. Whenever a job is given, each line whose first job is older, and of no lower priority than
the one that is given, has been overtaken once; after so many times it is the next to be given anything, and if it
does not fit now, this node is kept free until it does. A count and not a time: the same on a slow machine.

Nodes of several users on one machine (one *place*) share it: together they run no more than the largest of them may
alone, and while one user waits there who has less of it in use, the others get nothing.

With a claim a node tells how its jobs have ended. A node on which three in a row could not be run at all is sick: it is
rested, each time twice as long, and then gets one at a time until one has worked.
"""

from __future__ import annotations

from batchsystems.pool_scripts import Script

# ARGV: space, user, node, host, free cpu, free memory, all cpu, all memory, most jobs, overtakings, seconds of rest,
# place, [name, end, whether the node is to blame, why] ... in JSON, free graphics cards, all graphics cards.
# Returns why nothing more was given, then name, line, payload of each job.
_CLAIM = """
local node, host = ARGV[3], ARGV[4]
local cpu, memory, all_cpu, all_memory = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local gpus, all_gpus = tonumber(ARGV[14]), tonumber(ARGV[15])
local most, patience, place = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[12]
local moment = now()
local function judge(blamed, why)
  if blamed == 0 then
    call('HDEL', S .. 'fails', node)
    call('HDEL', S .. 'sick', node)
  elseif blamed == 1 and call('HINCRBY', S .. 'fails', node, 1) >= 3 then
    local before = call('HGET', S .. 'sick', node)
    local rests = before and cjson.decode(before).rests + 1 or 1
    local rest = math.min(3600000, tonumber(ARGV[11]) * 1000 * 2 ^ (rests - 1))
    call('HSET', S .. 'sick', node, cjson.encode({['until'] = moment + rest, rests = rests, why = why, host = host}))
  end
end
for _, one in ipairs(cjson.decode(ARGV[13])) do
  local name, told = one[1], one[2]
  local owner = call('HGET', S .. 'claim', name)
  -- What was taken from this node and given to another is the other's to tell of.
  if not owner or owner == node then
    forget(name)
    local run = run_of(name)
    call('HSETNX', S .. 'runs', run, '{}')
    call('HSET', S .. 'ends:' .. run, name, told)
    call('EXPIRE', S .. 'ends:' .. run, 2592000)
    wake('run:' .. run)
    judge(one[3], one[4])
  end
end
if call('HEXISTS', S .. 'nodes', node) == 0 then return {'unknown'} end
local _, held_back = recovery()

-- Nodes of several users on one machine share it: the user who has less of it comes first.
local wanting_before = false
if place ~= '' then
  local used_cpu, used_memory, most_cpu, most_memory, users, waiting = 0, 0, all_cpu, all_memory, {}, {}
  local entries = call('HGETALL', 'jobtree:place:' .. place)
  local entry = {u = ARGV[2], c = all_cpu - cpu, m = all_memory - memory, C = all_cpu, M = all_memory}
  for i = 1, #entries, 2 do
    local other = cjson.decode(entries[i + 1])
    if entries[i] == node then
      wanting_before = other.w
    elseif moment - other.t > other.T then
      call('HDEL', 'jobtree:place:' .. place, entries[i])
    else
      used_cpu, used_memory = used_cpu + other.c, used_memory + other.m
      most_cpu, most_memory = math.max(most_cpu, other.C), math.max(most_memory, other.M)
      users[other.u] = (users[other.u] or 0) + other.c
      if other.w and moment - other.t < 10000 then waiting[other.u] = true end
    end
  end
  users[entry.u] = (users[entry.u] or 0) + entry.c
  cpu = math.min(cpu, most_cpu - used_cpu - entry.c)
  memory = math.min(memory, most_memory - used_memory - entry.m)
  for user in pairs(waiting) do
    if user ~= entry.u and (users[user] or 0) < users[entry.u] then most = 0 end
  end
end

local given, why = {}, 'empty'
local sick = call('HGET', S .. 'sick', node)
if call('HEXISTS', S .. 'drain', node) == 1 then
  most, why = 0, 'drained'
elseif sick then
  if cjson.decode(sick)['until'] > moment then
    most, why = 0, 'sick'
  else
    most = math.min(most, 1 - call('SCARD', S .. 'held:' .. node))  -- one at a time, to see whether it is well again
  end
end

local use = {}
local function in_use(what)
  if not use[what] then use[what] = tonumber(call('HGET', S .. 'use', what) or 0) end
  return use[what]
end
local abouts = {}
local function about(run)
  if not abouts[run] then
    local found = call('HGET', S .. 'runs', run)
    abouts[run] = found and cjson.decode(found) or {}
    abouts[run].here = true
    if call('SISMEMBER', S .. 'avoid:' .. run, host) == 1 then
      local sizes = call('HVALS', S .. 'size')
      for _, size in ipairs(sizes) do
        local elsewhere = string.match(size, '^%S+ %S+ %S+ (.*)$')
        if call('SISMEMBER', S .. 'avoid:' .. run, elsewhere) == 0 then abouts[run].here = false end
      end
    end
  end
  return abouts[run]
end
local function head(line)
  local from = held_back and '(' .. held_back or '-inf'
  local found = call('ZRANGE', S .. 'q:' .. line, from, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  return found[1], tonumber(found[2])
end
local function kept_for_another(line)
  local other = call('HGET', S .. 'reserved', line)
  return other and other ~= node and call('HEXISTS', S .. 'nodes', other) == 1
    and call('HEXISTS', S .. 'drain', other) == 0 and call('HEXISTS', S .. 'sick', other) == 0
end

local lines = {}
for _, id in ipairs(call('SMEMBERS', S .. 'lines')) do
  local priority, line_cpu, line_memory, line_gpus, run = parts(id)
  if line_cpu <= all_cpu and line_memory <= all_memory and line_gpus <= all_gpus and about(run).here then
    local name, seq = head(id)
    if name then
      table.insert(lines, {id = id, priority = priority, cpu = line_cpu, memory = line_memory, gpus = line_gpus,
        run = run, name = name, seq = seq, jumped = tonumber(call('HGET', S .. 'jumped', id) or 0)})
    end
  end
end
local function allowed(line)
  local limits = about(line.run)
  return (not limits.max_cpu or in_use('c ' .. line.run) + line.cpu <= limits.max_cpu)
    and (not limits.max_memory or in_use('m ' .. line.run) + line.memory <= limits.max_memory)
end
local function better(a, b)
  if a.priority ~= b.priority then return a.priority > b.priority end
  local use_a, use_b = in_use('c ' .. a.run), in_use('c ' .. b.run)
  if a.run ~= b.run and use_a ~= use_b then return use_a < use_b end
  if a.gpus ~= b.gpus then return a.gpus > b.gpus end
  if a.cpu ~= b.cpu then return a.cpu > b.cpu end
  if a.memory ~= b.memory then return a.memory > b.memory end
  return a.seq < b.seq
end
local function choose()
  local best, due
  for _, line in ipairs(lines) do
    if line.name and allowed(line) then
      local fits = line.cpu <= cpu and line.memory <= memory and line.gpus <= gpus
      if line.jumped >= patience and (fits or not kept_for_another(line.id)) and (not due or line.seq < due.seq) then
        due = line
        due.fits = fits
      end
      if fits and (not best or better(line, best)) then best = line end
    end
  end
  if not due or (best and best.priority > due.priority) then return best end
  if due.fits then return due end
  call('HSET', S .. 'reserved', due.id, node)
  why = 'reserved'
end
while #given / 3 < most do
  local line = choose()
  if not line then break end
  dequeue(line.name, line.id)
  claim(line.name, line.id, node)
  use['c ' .. line.run] = in_use('c ' .. line.run) + line.cpu
  use['m ' .. line.run] = in_use('m ' .. line.run) + line.memory
  cpu, memory, gpus = cpu - line.cpu, memory - line.memory, gpus - line.gpus
  for _, given_one in ipairs({line.name, line.id, call('HGET', S .. 'payload', line.name)}) do
    table.insert(given, given_one)
  end
  for _, other in ipairs(lines) do
    if other.name and other ~= line and other.seq < line.seq and line.priority <= other.priority then
      other.jumped = other.jumped + 1
    end
  end
  line.jumped = 0
  call('HDEL', S .. 'reserved', line.id)
  line.name, line.seq = head(line.id)
end
for _, line in ipairs(lines) do
  if line.name then call('HSET', S .. 'jumped', line.id, text(line.jumped)) end
end

local free_cpu, free_memory = tonumber(ARGV[5]), tonumber(ARGV[6])
for i = 2, #given, 3 do
  local _, taken_cpu, taken_memory = parts(given[i])
  free_cpu, free_memory = free_cpu - taken_cpu, free_memory - taken_memory
end
call('HSET', S .. 'free', node, text(free_cpu) .. ' ' .. text(free_memory) .. ' ' .. text(gpus))
if place ~= '' then
  local wants = false
  for _, line in ipairs(lines) do
    if line.name and line.cpu <= free_cpu and line.memory <= free_memory and line.gpus <= gpus and allowed(line) then
      wants = true
    end
  end
  if why == 'drained' or why == 'sick' then wants = false end
  local entry = {u = ARGV[2], c = all_cpu - free_cpu, m = all_memory - free_memory, C = all_cpu, M = all_memory,
    w = wants, t = moment, T = tonumber(call('HGET', S .. 'timeout', node))}
  call('HSET', 'jobtree:place:' .. place, node, cjson.encode(entry))
  if wants then why = 'turn' end
end
if why == 'empty' and #given / 3 < most then call('SADD', S .. 'idle', node) end
table.insert(given, 1, why)
return given
"""

CLAIM = Script(_CLAIM)
