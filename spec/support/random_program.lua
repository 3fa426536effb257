-- SPDX-License-Identifier: MIT
-- Random programs: trees of groups, timeouts, shields, locks, queues and the rest, with random
-- cancellations and errors, run on a virtual clock while the invariants are checked.
--
-- `generate(seed)` makes a program, which is plain data: lists of nodes, each with an `op`. `run`
-- executes one and returns its trace, or raises when an invariant does not hold. The same seed
-- gives the same program, and the same program gives the same trace. `shrink` makes a failing
-- program smaller. `show` prints one.
--
-- What is checked, by the numbers of the design notes:
--   I1  every child has started once and ended once when its group or gather returns
--   I2  each item that was put comes out once or is still there; locks, permits and tokens return
--   I3  after a scope the innermost scope is the one from before
--   I4  Cancelled is only ever seen where a scope around, up to the next shield, was cancelled
--   I5  the same: a shield keeps outer requests out; and a wait in a cancelled scope raises, so
--       they count at once when the shield ends
--   I6  a second cancel returns false, the first reason wins
--   I7  every <close> variable is closed once
--   I8  a sleep takes exactly as long as it says, whatever the other tasks do
--   I9  nothing is left in the loop at the end (the leak check of testing.run)
--   I10 cancelling a finished task returns false and changes nothing

local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local random_program = {}

-- Making programs ------------------------------------------------------------------------------

-- A generator of its own, so that a seed means the same everywhere.
local function Random(seed)
  local state = (seed * 0x9E3779B97F4A7C15) ~ 0x2545F4914F6CDD1D
  if state == 0 then
    state = 1
  end
  local function next_number()
    state = state ~ (state << 13)
    state = state ~ (state >> 7)
    state = state ~ (state << 17)
    return state
  end
  for _ = 1, 8 do
    next_number()
  end
  return function(low, high)
    return low + (next_number() >> 1) % (high - low + 1)
  end
end

local function choose(list, n)
  return #list > 0 and list[(n - 1) % #list + 1] or nil
end

local MAX_DEPTH = 5

-- Operations with their weights. Each makes the fields of a node; `body` is a list of nodes,
-- `children` a list of such lists.
local LEAVES = {
  { 10, "sleep" }, { 10, "checkpoint" }, { 7, "put" }, { 7, "get" }, { 3, "set" },
  { 2, "clear" }, { 4, "wait_event" }, { 3, "notify" }, { 3, "wait_condition" },
  { 2, "barrier" }, { 5, "select" }, { 4, "cancel_task" }, { 4, "cancel_scope" },
  { 4, "await" }, { 3, "fail" }, { 2, "toggle" }, { 2, "move_deadline" }, { 3, "wait_tasks" },
  { 2, "settle_future" }, { 2, "wait_future" }, { 1, "idle" },
}

local BRANCHES = {
  { 6, "guard" }, { 6, "lock" }, { 4, "semaphore" }, { 3, "limiter" }, { 5, "scope" },
  { 5, "timeout" }, { 5, "move_on" }, { 4, "shield" }, { 8, "group" }, { 4, "gather" },
  { 2, "settle" }, { 3, "race" }, { 2, "any" }, { 5, "spawn" }, { 5, "try" }, { 3, "swallow" },
  { 2, "start" }, { 2, "variable" }, { 2, "generator" },
}

local function pick(random, table_of_weights)
  local total = 0
  for _, entry in ipairs(table_of_weights) do
    total = total + entry[1]
  end
  local ticket = random(1, total)
  for _, entry in ipairs(table_of_weights) do
    ticket = ticket - entry[1]
    if ticket <= 0 then
      return entry[2]
    end
  end
end

local HAS_CHILDREN = { group = true, gather = true, settle = true, race = true, any = true }

---Makes a program.
---@param seed integer
---@return table program
function random_program.generate(seed)
  local random = Random(seed)
  local count = 0
  local make_list

  local function make_node(depth)
    count = count + 1
    local leaf = depth >= MAX_DEPTH or random(1, 100) <= 50
    local node = {
      op = pick(random, leaf and LEAVES or BRANCHES),
      id = count,
      n = random(1, 1000), -- which lock, queue, task, scope...
      seconds = random(0, 12) / 4,
    }
    if not leaf then
      node.body = make_list(depth + 1, 4)
      if HAS_CHILDREN[node.op] then
        node.children = {}
        for i = 1, random(1, 4) do
          node.children[i] = make_list(depth + 1, 4)
        end
      end
    end
    return node
  end

  function make_list(depth, longest)
    local list = {}
    for i = 1, random(count > 150 and 0 or 1, longest) do
      list[i] = make_node(depth)
    end
    return list
  end

  -- Each part of the program goes on whatever becomes of the one before; one tends the garden.
  local program = { seed = seed, body = {}, strikes = {} }
  if random(1, 4) > 1 then
    program.body[1] = { op = "spawn", id = 0, n = 0, seconds = 0, body = {
      { op = "garden", id = 0, n = 0, seconds = random(1, 8) / 2 },
    } }
  end
  for _ = 1, random(2, 6) do
    local part = { op = "swallow", id = 0, n = 0, seconds = 0, body = make_list(1, 6) }
    program.body[#program.body + 1] = part
  end
  -- Cancellations between two task switches, where no program could place them. Some programs
  -- kill tasks as well, in some finalizers meddle with everything; for these rough ones only a
  -- part of the invariants can be checked.
  program.kills = random(1, 6) == 1
  program.meddles = random(1, 10) == 1
  for i = 1, random(program.kills and 2 or 0, 4) do
    program.strikes[i] = {
      switch = random(1, 60),
      n = random(1, 1000),
      what = choose({ "task", "scope", program.kills and "kill" or "task" }, random(1, 3)),
    }
  end
  program.shuffle = random(1, 2) == 1 and random(1, 1 << 30) or nil
  return program
end

-- Showing programs -----------------------------------------------------------------------------

local function show_list(list, indent, out)
  for _, node in ipairs(list) do
    out[#out + 1] = ("%s%d %s n=%d s=%g"):format(indent, node.id, node.op, node.n, node.seconds)
    if node.body then
      show_list(node.body, indent .. "  ", out)
    end
    for i, child in ipairs(node.children or {}) do
      out[#out + 1] = ("%s  child %d:"):format(indent, i)
      show_list(child, indent .. "    ", out)
    end
  end
end

---A program as text.
---@param program table
---@return string
function random_program.show(program)
  local out = { ("program of seed %d, shuffle %s"):format(program.seed, program.shuffle or "off") }
  for _, strike in ipairs(program.strikes) do
    out[#out + 1] = ("strike before switch %d at %s n=%d"):format(strike.switch, strike.what,
      strike.n)
  end
  show_list(program.body, "  ", out)
  return table.concat(out, "\n")
end

-- Running programs -----------------------------------------------------------------------------

local EPSILON = 1e-6

local function violation(message, ...)
  error("INVARIANT: " .. message:format(...), 0)
end

-- The errors that a program may see; anything else is a mistake of the library.
local EXPECTED = { TimeoutError = true, FutureCancelled = true, Deadlock = true, Closed = true }

local function check_error(e, killed)
  if killed and type(e) == "table" and (e.kind == "InvalidState" or e.kind == "Cancelled") then
    return -- a wait in the clean-up of a killed task, which refuses it
  elseif type(e) == "string" then
    if not e:find "^E%d+$" then
      violation("an unexpected error: %s", e)
    end
  elseif type(e) ~= "table" then
    violation("an unexpected error value: %s", tostring(e))
  elseif e.kind == "ErrorGroup" then
    for i = 1, e.n do
      check_error(e.errors[i], killed)
    end
  elseif not EXPECTED[e.kind] then
    violation("an unexpected error:\n%s", errors.format(e))
  end
end

local function is_violation(e)
  return type(e) == "string" and e:find("^INVARIANT")
end

-- A task of the program: who it is, which scopes it is in, what it holds.
local Context = {}
Context.__index = Context

function Context:log(node, what)
  local world = self.world
  world.trace[#world.trace + 1] = ("%.6f task %d, node %d: %s"):format(concur.now() - world.start,
    self.id, node.id, what)
end

local function is_shielded(record)
  local ok, shielded = pcall(record.handle.shield, record.handle) -- raises once it was left
  return ok and shielded
end

-- The record of the scope that cancels waits here, if one does; and whether it is only possible
-- (siblings of a gather are cancelled by something that has no handle).
function Context:cancelled_by()
  for i = #self.stack, 1, -1 do
    local record = self.stack[i]
    if record.join then
      if record.join.over then
        return record, true
      end
    elseif record.task then
      if self.world.cancelled[record.task] then
        return record, false
      end
    elseif record.handle:cancel_called() then
      return record, false
    elseif is_shielded(record) then
      return nil
    end
  end
end

-- Whether Cancelled may be seen here. A shield that went up after the wait was taken off, and
-- before its task ran, does not call the Cancelled back.
function Context:may_be_cancelled()
  if self.world.rough then
    return true
  elseif not self.world.toggled then
    return self:cancelled_by() ~= nil
  end
  for _, record in ipairs(self.stack) do
    if record.join and record.join.over or record.task and self.world.cancelled[record.task]
      or record.handle and record.handle:cancel_called() then
      return true
    end
  end
  return false
end

local function remove_value(list, value)
  for i, item in ipairs(list) do
    if item == value then
      table.remove(list, i)
      return
    end
  end
end

-- Calls `fn()` inside the innermost scope, which was opened a moment ago.
function Context:inside(fn)
  local record = { handle = concur.current_scope() }
  self.stack[#self.stack + 1] = record
  table.insert(self.world.scopes, record)
  local _ <close> = expect.guard(function()
    if self.stack[#self.stack] ~= record and not self.world.rough then
      violation("I3: the stack of scopes is mixed up")
    end
    self.stack[#self.stack] = nil
    remove_value(self.world.scopes, record)
  end)
  return fn()
end

-- One wait: raises what it raises, and checks I4 and I5.
function Context:wait(fn, ...)
  local before, maybe = self:cancelled_by()
  local start = concur.now()
  local results = table.pack(pcall(fn, ...))
  if results[1] then
    if before and not maybe and not self.world.rough then
      violation("I5: a wait in a cancelled scope returned")
    end
    return table.unpack(results, 2, results.n)
  end
  local e = results[2]
  if type(e) == "table" and e.kind == "Cancelled" then
    if not self:may_be_cancelled() then
      violation("I4: Cancelled where no scope is cancelled")
    elseif before and concur.now() ~= start and not self.world.rough then
      violation("I5: Cancelled came late")
    end
  elseif not is_violation(e) then
    check_error(e, self.world.rough)
  end
  error(e, 0)
end

local run_list

-- The body of a new task. `base` is the list of scopes it is inside.
local function task_body(world, base, list, node, counts)
  local stack = table.move(base, 1, #base, 1, {})
  return function()
    counts.started = counts.started + 1
    local _ <close> = expect.guard(function()
      counts.ended = counts.ended + 1
    end)
    world.next_id = world.next_id + 1
    local context = setmetatable({
      id = world.next_id,
      world = world,
      stack = stack,
      held = {},
    }, Context)
    local task = concur.current_task()
    table.insert(context.stack, { task = task }) -- its outermost scope has no handle
    table.insert(world.tasks, { task = task, id = context.id })
    context:log(node, "task started")
    run_list(context, list)
    return context.id
  end
end

local function check_counts(world, counts, wanted)
  if world.rough then
    return -- what a killed task owned ends later
  elseif counts.started ~= wanted or counts.ended ~= wanted then
    violation("I1: %d children, %d started, %d ended", wanted, counts.started, counts.ended)
  end
end

local OPS = {}

function OPS.sleep(context, node)
  local start = concur.now()
  context:wait(concur.sleep, node.seconds)
  if math.abs(concur.now() - start - node.seconds) > EPSILON then
    violation("I8: sleep(%g) took %.9f", node.seconds, concur.now() - start)
  end
end

function OPS.checkpoint(context)
  context:wait(concur.checkpoint)
end

function OPS.idle(context)
  context:wait(concur.move_on_after, 50, testing.run_until_idle)
end

function OPS.put(context, node)
  local world = context.world
  local queue = choose(world.queues, node.n)
  world.next_item = world.next_item + 1
  local item = world.next_item
  context:wait(queue.put, queue, item)
  world.put[item] = (world.put[item] or 0) + 1
end

local function took(world, item)
  world.got[item] = (world.got[item] or 0) + 1
end

local function took_if_any(world, item)
  if item ~= nil then
    took(world, item)
  end
end

function OPS.get(context, node)
  local queue = choose(context.world.queues, node.n)
  took(context.world, context:wait(queue.get, queue))
end

function OPS.set(context, node)
  choose(context.world.events, node.n):set()
end

function OPS.clear(context, node)
  choose(context.world.events, node.n):clear()
end

function OPS.wait_event(context, node)
  local event = choose(context.world.events, node.n)
  context:wait(event.wait, event)
end

-- Runs `body` with the primitive; a task does not take what it holds already.
local function hold(context, primitive, body)
  if context.held[primitive] then
    return body()
  end
  local _ <close> = context:wait(primitive.acquire, primitive)
  local inside = context.world.inside
  context.held[primitive] = true
  inside[primitive] = (inside[primitive] or 0) + 1
  -- A condition's lock is given back while it waits; all others let one in.
  if inside[primitive] > 1 and primitive ~= context.world.condition then
    violation("I2: %d hold %s", inside[primitive], tostring(primitive))
  end
  local _ <close> = expect.guard(function()
    context.held[primitive] = nil
    inside[primitive] = inside[primitive] - 1
  end)
  return body()
end

function OPS.notify(context)
  local condition = context.world.condition
  hold(context, condition, function()
    condition:notify()
  end)
end

function OPS.wait_condition(context)
  local condition = context.world.condition
  hold(context, condition, function()
    context:wait(condition.wait, condition)
  end)
end

function OPS.barrier(context)
  context:wait(context.world.barrier.wait, context.world.barrier)
end

function OPS.select(context, node)
  local world = context.world
  world.next_item = world.next_item + 1
  local item = world.next_item
  local key, value = context:wait(concur.select, {
    -- A list: the order of other keys is not the same in every process.
    choose(world.queues, node.n):getting(),
    choose(world.queues, node.n // 10):putting(item),
    choose(world.events, node.n):waiting(),
    concur.after(node.seconds),
  })
  if key == 1 then
    took(world, value)
  elseif key == 2 then
    world.put[item] = 1
  end
end

local function strike_task(world, n)
  local record = choose(world.tasks, n)
  if not record then
    return
  end
  local done, state = record.task:done(), record.task:state()
  local certain = not world.meddler -- whose finalizers come between two lines
  local reason = "reason " .. n
  local answer = record.task:cancel(reason)
  if done and certain and (answer or record.task:state() ~= state) then
    violation("I10: cancelling a finished task returned true or changed it")
  elseif not done and certain and not answer then
    violation("I6: cancelling a live task returned false")
  end
  if answer then
    world.cancelled[record.task] = world.cancelled[record.task] or reason
  end
end

local function strike_scope(world, n)
  local record = choose(world.scopes, n)
  if not record then
    return
  end
  local before = record.handle:cancel_called()
  if record.handle:cancel("reason " .. n) == before and not world.meddler then
    violation("I6: scope:cancel returned %s", tostring(before))
  end
end

local function strike_dead(world, n)
  local record = choose(world.tasks, n)
  if record and record.task ~= concur.current_task() and record.task:kill() then
    if not record.task:done() then
      violation("a killed task is not done")
    end
    world.cancelled[record.task] = world.cancelled[record.task] or "killed"
  end
end

local STRIKES = { task = strike_task, scope = strike_scope, kill = strike_dead }

function OPS.cancel_task(context, node)
  strike_task(context.world, node.n)
end

function OPS.cancel_scope(context, node)
  strike_scope(context.world, node.n)
end

function OPS.toggle(context, node)
  local record = choose(context.world.scopes, node.n)
  if record then
    context.world.toggled = true
    record.handle:shield(not record.handle:shield())
    -- A shield must not outlive its reason, or the program may never end.
    concur.get_event_loop():call_later(5, function()
      pcall(record.handle.shield, record.handle, false) -- raises when the scope was left
    end)
  end
end

function OPS.move_deadline(context, node)
  local record = choose(context.world.scopes, node.n)
  if record then
    record.handle:deadline(concur.now() + node.seconds)
  end
end

function OPS.await(context, node)
  local record = choose(context.world.background, node.n)
  if record and record.id < context.id then
    if record.task:done() then
      pcall(record.task.result, record.task)
    else
      context:wait(record.task.result, record.task, 20)
    end
  end
end

function OPS.wait_tasks(context, node)
  local tasks = {}
  for i, record in ipairs(context.world.background) do
    if record.id < context.id then
      tasks[i] = record.task
    end
  end
  if #tasks > 0 then
    context:wait(concur.wait, tasks, { return_when = "first", timeout = node.seconds })
  end
end

function OPS.settle_future(context, node)
  choose(context.world.futures, node.n):set_result(node.id)
end

function OPS.wait_future(context, node)
  local future = choose(context.world.futures, node.n)
  if not future:done() then
    context:wait(future.result, future)
  end
end

-- Now and then wakes what the program forgot to wake, so that it goes on.
function OPS.garden(context, node)
  local world = context.world
  while true do
    context:wait(concur.sleep, node.seconds)
    for _, event in ipairs(world.events) do
      event:set()
      event:clear()
    end
    for i, future in ipairs(world.futures) do
      future:set_result(i)
      world.futures[i] = concur.Future()
    end
    for _, queue in ipairs(world.queues) do
      world.next_item = world.next_item + 1
      if queue:try_put(world.next_item) then
        world.put[world.next_item] = 1
      else
        took_if_any(world, queue:try_get())
      end
    end
    hold(context, world.condition, function()
      world.condition:notify_all()
    end)
  end
end

function OPS.fail(_, node)
  error("E" .. node.id, 0)
end

function OPS.guard(context, node)
  local world = context.world
  world.guards_opened = world.guards_opened + 1
  local closed = false
  local _ <close> = expect.guard(function()
    if closed then
      violation("I7: closed twice")
    end
    closed = true
    world.guards_closed = world.guards_closed + 1
    if node.n % 3 == 0 then
      concur.shield(concur.sleep, node.seconds)
    elseif node.n % 3 == 1 then
      context:wait(concur.checkpoint) -- raises in a cancelled scope: the rest must still run
    end
  end)
  run_list(context, node.body)
end

function OPS.lock(context, node)
  hold(context, choose(context.world.locks, node.n), function()
    run_list(context, node.body)
  end)
end

function OPS.semaphore(context, node)
  hold(context, context.world.semaphore, function()
    run_list(context, node.body)
  end)
end

function OPS.limiter(context, node)
  hold(context, context.world.limiter, function()
    run_list(context, node.body)
  end)
end

-- A scope of some kind: `open(body)` runs `body` in it.
local function scoped(context, node, open)
  local before = concur.current_scope()
  local _ <close> = expect.guard(function()
    -- A killed task's variables are closed all at once, in the scope where it was.
    if concur.current_scope() ~= before and not context.world.rough then
      violation("I3: another scope is the innermost one now")
    end
  end)
  return open(function()
    return context:inside(function()
      run_list(context, node.body)
    end)
  end)
end

-- A scope that ended by its own Cancelled: none around it may be cancelled, or that one catches.
local function check_caught(context, node, finished)
  context:log(node, tostring(finished))
  local by, maybe = context:cancelled_by()
  if not finished and by and not maybe and not context.world.toggled then
    violation("I4: an inner scope caught what the outermost cancelled one should")
  end
end

function OPS.scope(context, node)
  scoped(context, node, function(body)
    local options = node.n % 2 == 0 and { deadline = concur.now() + node.seconds } or nil
    check_caught(context, node, (concur.cancel_scope(body, options)))
  end)
end

function OPS.timeout(context, node)
  local start = concur.now()
  scoped(context, node, function(body)
    local ok, e = pcall(concur.timeout, node.seconds, body)
    if ok then
      return
    end
    if type(e) == "table" and e.kind == "TimeoutError" and concur.now() < start then
      violation("a timeout came early")
    end
    error(e, 0)
  end)
end

function OPS.move_on(context, node)
  scoped(context, node, function(body)
    check_caught(context, node, (concur.move_on_after(node.seconds, body)))
  end)
end

-- Nothing ends a shield from outside, so it has a deadline of its own inside.
function OPS.shield(context, node)
  concur.shield(function()
    context:inside(function()
      scoped(context, node, function(body)
        concur.move_on_after(node.seconds + 1, body)
      end)
    end)
  end)
end

function OPS.group(context, node)
  local counts = { started = 0, ended = 0 }
  local wanted = 0
  local _ <close> = expect.guard(function()
    check_counts(context.world, counts, wanted)
  end)
  local results = table.pack(pcall(concur.task_group, function(group)
    return context:inside(function()
      local base = context.stack
      for _, list in ipairs(node.children) do
        wanted = wanted + 1
        group:spawn(task_body(context.world, base, list, node, counts))
      end
      run_list(context, node.body)
      if node.n % 5 == 0 then
        group:cancel()
      end
    end)
  end))
  if not results[1] then
    if type(results[2]) == "table" and results[2].kind == "ErrorGroup" then
      check_error(results[2], context.world.rough)
    end
    error(results[2], 0)
  end
end

function OPS.start(context, node)
  local counts = { started = 0, ended = 0 }
  local _ <close> = expect.guard(function()
    check_counts(context.world, counts, counts.started)
  end)
  concur.task_group(function(group)
    return context:inside(function()
      local value = context:wait(group.start, group, function(started)
        return task_body(context.world, context.stack, {
          { op = "checkpoint", id = node.id, n = node.n, seconds = 0 },
          { op = "call", id = node.id, n = node.n, seconds = 0, fn = function()
            started(node.id)
          end },
          table.unpack(node.body),
        }, node, counts)()
      end)
      if value ~= node.id then
        violation("group:start returned %s", tostring(value))
      end
    end)
  end)
end

function OPS.call(_, node)
  node.fn()
end

-- gather and its relatives: children inside the caller's scopes. `ends(ok)` says whether a child
-- that ended so makes the others stop.
local function join(context, node, combine, ends)
  local counts = { started = 0, ended = 0 }
  local record = { join = { over = false } }
  local base = table.move(context.stack, 1, #context.stack, 1, {})
  base[#base + 1] = record
  local children = {}
  for i, list in ipairs(node.children) do
    local body = task_body(context.world, base, list, node, counts)
    children[i] = function()
      local ok = false
      local _ <close> = expect.guard(function()
        if ends(ok) then
          record.join.over = true
        end
      end)
      local value = body()
      ok = true
      return value
    end
  end
  local results = table.pack(pcall(combine, table.unpack(children)))
  local e = results[2]
  local cancelled = not results[1] and type(e) == "table" and e.kind == "Cancelled"
  -- Cancelled before it began, gather has started no child at all. That can also happen while it
  -- shares the processor first, after 128 waits that were over at once.
  if not (cancelled and counts.started == 0) then
    check_counts(context.world, counts, #children)
  end
  if not results[1] then
    if cancelled then
      if not context:may_be_cancelled() then
        violation("I4: Cancelled from a combinator where no scope is cancelled")
      end
    elseif not is_violation(e) then
      check_error(e, context.world.rough)
    end
    error(e, 0)
  end
end

function OPS.gather(context, node)
  join(context, node, concur.gather, function(ok)
    return not ok
  end)
end

function OPS.settle(context, node)
  join(context, node, concur.settle, function()
    return false
  end)
end

function OPS.race(context, node)
  join(context, node, concur.race, function()
    return true
  end)
end

function OPS.any(context, node)
  join(context, node, concur.any, function(ok)
    return ok
  end)
end

function OPS.spawn(context, node)
  local world = context.world
  local counts = { started = 0, ended = 0 }
  world.background_counts[#world.background_counts + 1] = counts
  local task = concur.spawn(task_body(world, {}, node.body, node, counts))
  world.next_id = world.next_id + 1
  table.insert(world.background, { task = task, id = world.next_id })
end

OPS["try"] = function(context, node)
  local ok, e = concur.pcall(run_list, context, node.body)
  if not ok then
    if is_violation(e) then
      error(e, 0)
    end
    check_error(e, context.world.rough)
    context:log(node, "caught " .. (type(e) == "table" and e.kind or e))
  end
end

function OPS.swallow(context, node)
  local ok, e = pcall(run_list, context, node.body)
  if not ok then
    if is_violation(e) then
      error(e, 0)
    elseif type(e) == "table" and e.kind == "Cancelled" then
      if not context:may_be_cancelled() then
        violation("I4: Cancelled outside its scope")
      end
    else
      check_error(e, context.world.rough)
    end
    context:log(node, "swallowed " .. (type(e) == "table" and e.kind or e))
  end
end

function OPS.variable(context, node)
  local var = context.world.variable
  local before = var:get()
  local _ <close> = expect.guard(function()
    if var:get() ~= before and not context.world.rough then
      violation("a context variable was not put back")
    end
  end)
  var:with(node.id, function()
    run_list(context, node.body)
    if var:get() ~= node.id then
      violation("a context variable is another's")
    end
  end)
end

function OPS.generator(context, node)
  local step <close> = concur.wrap(function()
    for _ = 1, 2 do
      run_list(context, node.body)
      coroutine.yield(true)
    end
  end)
  while step() do
    context:wait(concur.checkpoint)
  end
end

-- What a finalizer may do at any moment, inside any function that allocates: all but wait.
local MEDDLE = {
  function(world, n)
    world.next_item = world.next_item + 1
    local item = world.next_item
    if choose(world.queues, n):try_put(item) then
      world.put[item] = 1
    end
  end,
  function(world, n)
    took_if_any(world, choose(world.queues, n):try_get())
  end,
  function(world, n)
    choose(world.events, n):set()
  end,
  function(world, n)
    choose(world.events, n):clear()
  end,
  function(world, n)
    choose(world.futures, n):set_result(n)
  end,
  function(world, n)
    strike_task(world, n)
  end,
  function(world, n)
    strike_scope(world, n)
  end,
  function(world)
    local permit = world.semaphore:try_acquire()
    if permit then
      permit:release()
    end
  end,
}

-- Makes garbage whose finalizer meddles, whenever the collector finds it.
local function litter(world)
  setmetatable({}, {
    __gc = function()
      local meddler = world.meddler
      if meddler then
        world.meddler = nil -- one at a time
        local ok, e = pcall(choose(MEDDLE, meddler(1, 1000)), world, meddler(1, 1000))
        world.meddler = meddler
        world.mishap = world.mishap or not ok and e or nil
      end
    end,
  })
end

function run_list(context, list)
  for _, node in ipairs(list) do
    if context.world.meddler then
      litter(context.world)
    end
    context:log(node, node.op)
    OPS[node.op](context, node)
  end
end

local function World(program)
  return {
    rough = program.kills or program.meddles,
    meddler = program.meddles and Random(program.seed) or nil,
    start = concur.now(),
    trace = {},
    next_id = 0,
    next_item = 0,
    tasks = {},
    cancelled = {}, -- task -> the reason of the first task:cancel
    background = {},
    background_counts = {},
    scopes = {},
    put = {},
    got = {},
    guards_opened = 0,
    guards_closed = 0,
    locks = { concur.Lock(), concur.Lock() },
    inside = {}, -- primitive -> how many hold it
    semaphore = concur.Semaphore(1),
    limiter = concur.CapacityLimiter(1),
    queues = { concur.Queue(1), concur.Queue(), concur.LifoQueue(2), concur.PriorityQueue(2) },
    events = { concur.Event(), concur.Event() },
    condition = concur.Condition(),
    barrier = concur.Barrier(2),
    futures = { concur.Future(), concur.Future() },
    variable = concur.ContextVar(0),
  }
end

-- Ends what is still alive; afterwards everything must have come back.
local function finish(world)
  local tasks = {}
  repeat -- a task that is cancelled may start others before its first wait
    local count = #tasks
    for i = count + 1, #world.background do
      local task = world.background[i].task
      tasks[i] = task
      world.cancelled[task] = world.cancelled[task] or "the end"
      task:cancel("the end")
    end
    if #tasks > 0 then
      concur.wait(tasks)
    end
    if world.rough then
      concur.sleep(600) -- what killed tasks owned was cancelled, but nobody waited for it
    end
  until #tasks == #world.background and #tasks == count
  for _, task in ipairs(tasks) do
    if task:state() == "failed" then
      local e = task:exception()
      if is_violation(e) then
        error(e, 0)
      end
      check_error(e, world.rough)
    elseif task:state() == "cancelled" and not world.rough then
      local reason = expect.error("FutureCancelled", task.result, task).reason
      if reason ~= world.cancelled[task] then
        violation("I6: %s was not the first reason", tostring(reason))
      end
    end
    if task:cancel() then
      violation("I10: cancelling a finished task returned true")
    end
  end
  for _, counts in ipairs(world.background_counts) do
    check_counts(world, counts, 1)
  end
  for _, record in ipairs(world.tasks) do
    if not record.task:done() and record.task ~= concur.current_task() then
      violation("I1: a task is alive at the end: %s", tostring(record.task))
    end
  end
end

local function check_world(world)
  world.meddler = nil
  if world.mishap then
    violation("a finalizer failed: %s", tostring(world.mishap))
  end
  for i, lock in ipairs(world.locks) do
    if lock:locked() then
      violation("I2: lock %d is held at the end", i)
    end
  end
  if world.condition:locked() then
    violation("I2: the condition's lock is held at the end")
  elseif world.semaphore:value() ~= 1 then
    violation("I2: the semaphore has %d permits", world.semaphore:value())
  elseif world.limiter:borrowed() ~= 0 then
    violation("I2: the limiter has lent %d tokens", world.limiter:borrowed())
  elseif world.barrier:waiters() ~= 0 then
    violation("I2: %d wait at the barrier", world.barrier:waiters())
  elseif world.guards_opened ~= world.guards_closed then
    violation("I7: %d <close> variables, %d closed", world.guards_opened, world.guards_closed)
  end
  for _, queue in ipairs(world.queues) do
    while true do
      local item = queue:try_get()
      if item == nil then
        break
      end
      took(world, item)
    end
  end
  for item = 1, world.next_item do
    if (world.put[item] or 0) ~= (world.got[item] or 0) then
      violation("I2: item %d was put %d times and came out %d times", item, world.put[item] or 0,
        world.got[item] or 0)
    end
  end
end

-- Runs the program's body in this task, with its strikes.
local function execute(program, world)
  local switches = 0
  core.on_switch(function()
    switches = switches + 1
    for _, strike in ipairs(program.strikes) do
      if strike.switch == switches then
        STRIKES[strike.what](world, strike.n)
      end
    end
  end)
  local _ <close> = expect.guard(function()
    core.on_switch(nil)
  end)
  local counts = { started = 0, ended = 0 }
  local root = { id = 0 }
  -- Deadlocks between the program's locks are not mistakes of the library: a deadline ends them.
  local ok, e = pcall(concur.move_on_after, 500, function()
    local limit = { handle = concur.current_scope() }
    concur.gather(task_body(world, { limit }, program.body, root, counts))
  end)
  if not ok then
    if is_violation(e) then
      error(e, 0)
    end
    check_error(e, world.rough)
  end
  finish(world)
  check_counts(world, counts, 1)
  check_world(world)
end

---Runs a program as a run of its own. Raises when an invariant does not hold.
---@param program table
---@return string trace the same for the same program, unless finalizers meddle in it
function random_program.run(program)
  local world
  testing.run(function()
    world = World(program)
    local ok, e = pcall(execute, program, world)
    concur.sleep(10) -- timers of `toggle`
    if not ok then
      error(e, 0)
    end
  end, {
    shuffle = program.shuffle,
    on_error = function(e)
      check_error(e, program.kills or program.meddles)
    end,
  })
  return table.concat(world.trace, "\n")
end

-- Making failing programs smaller --------------------------------------------------------------

local function copy(value)
  if type(value) ~= "table" then
    return value
  end
  local result = {}
  for k, v in pairs(value) do
    result[k] = copy(v)
  end
  return result
end

-- Calls `visit(list, index)` for each node, deepest lists last; stops when it returns true.
local function each_node(list, visit)
  for i = #list, 1, -1 do
    if visit(list, i) then
      return true
    end
    local node = list[i]
    if node then
      for _, child in ipairs(node.children or {}) do
        if each_node(child, visit) then
          return true
        end
      end
      if node.body and each_node(node.body, visit) then
        return true
      end
    end
  end
end

local function count_nodes(program)
  local count = 0
  each_node(program.body, function()
    count = count + 1
  end)
  return count
end

-- The program without its k-th node, or with that node replaced by its body.
local function without(program, k, keep_body)
  local smaller, seen = copy(program), 0
  each_node(smaller.body, function(list, i)
    seen = seen + 1
    if seen == k then
      local node = table.remove(list, i)
      if keep_body then
        for j, inner in ipairs(node.body or {}) do
          table.insert(list, i + j - 1, inner)
        end
      end
      return true
    end
  end)
  return smaller
end

---Makes a failing program smaller, as long as it still fails.
---@param program table
---@param fails fun(program: table): boolean
---@return table
function random_program.shrink(program, fails)
  local attempts, progress = 0, true
  while progress and attempts < 400 do
    progress = false
    for i = #program.strikes, 1, -1 do
      local smaller = copy(program)
      table.remove(smaller.strikes, i)
      if fails(smaller) then
        program, progress = smaller, true
      end
    end
    local k = 1
    while k <= count_nodes(program) and attempts < 400 do
      attempts = attempts + 1
      local smaller = without(program, k, false)
      if not fails(smaller) then
        smaller = without(program, k, true)
        if count_nodes(smaller) >= count_nodes(program) or not fails(smaller) then
          smaller = nil
        end
      end
      if smaller then
        program, progress = smaller, true
      else
        k = k + 1
      end
    end
  end
  return program
end

return random_program
