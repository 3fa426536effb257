-- SPDX-License-Identifier: MIT
-- Cancel at every step: runs a scenario again and again, each time cancelling one task, the
-- *victim*, one point later than the time before, until the victim ends untouched. After each run
-- the scenario's own checks, the <close> counts and the leak check must hold.
--
--   everywhere(function(case)
--     local lock = concur.Lock()
--     local victim = case:victim(function()
--       local _ <close> = lock:acquire()
--       concur.checkpoint()
--     end)
--     case:join(victim)
--     assert.is_false(lock:locked())
--   end)
--
-- The scenario runs as the root task of a fresh run on a virtual clock. A *point* is either the
-- gap before a task switch of the whole loop (the victim is parked, or woken and not yet resumed,
-- or not started) or the moment at which the victim begins a wait. What happens at the point is
-- the *mode*. Each mode is tried with the ready queue in order, and shuffled. In the mode "top" the
-- scenario runs at top level instead, and its victim's body too, inside `case:join()`.

local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local MAX_POINTS = 2000 -- a scenario with more points than this does not end

local Case = {}
Case.__index = Case

-- Modes: `scoped` puts a scope around the victim's body; `fire` is what happens at the point;
-- `at` says which hook counts points.
local MODES = {
  task = {
    at = "switch",
    fire = function(case)
      case.task:cancel "everywhere"
    end,
  },
  again = { -- a request at the point, and others at each later one
    at = "switch",
    repeated = true,
    fire = function(case)
      case.task:cancel "everywhere"
    end,
  },
  wait = {
    at = "wait",
    fire = function(case)
      case.task:cancel "everywhere"
    end,
  },
  scope = {
    at = "switch",
    scoped = true,
    fire = function(case)
      case.scope:cancel "everywhere"
    end,
  },
  deadline = {
    at = "switch",
    scoped = true,
    fire = function(case)
      case.scope:deadline(concur.now())
    end,
  },
  scope_wait = {
    at = "wait",
    scoped = true,
    fire = function(case)
      case.scope:cancel "everywhere"
    end,
  },
  kill = {
    at = "switch",
    orphans = true, -- what the victim owned is cancelled, but nobody joins it
    fire = function(case)
      case.task:kill()
    end,
  },
}

MODES.top = {
  at = "switch",
  top = true,
  fire = MODES.scope.fire,
}

local DEFAULT_MODES = { "task", "again", "wait", "scope", "deadline", "scope_wait", "top" }
local ORDERS = { false, 1, 2 } -- first in, first out; two seeds of the shuffle

---Starts the task that is cancelled. Once a run.
---@param body function
---@return concur.Task
function Case:victim(body, ...)
  assert(not self.task and not self.body, "a scenario has one victim")
  if self.mode.top then
    self.body = table.pack(body, ...)
    return nil
  elseif self.mode.scoped then
    self.task = concur.spawn(function(...)
      local args = table.pack(...)
      local results = table.pack(concur.cancel_scope(function(scope)
        self.scope = scope
        local _ <close> = expect.guard(function()
          self.scope = nil -- from here on nothing of the victim is left to cancel
        end)
        return body(table.unpack(args, 1, args.n))
      end))
      self.caught = not results[1]
      return table.unpack(results, 2, results.n)
    end, ...)
  else
    self.task = concur.spawn(body, ...)
  end
  self.task:set_name "victim"
  return self.task
end

-- Runs the victim's body here, at top level.
local function join_top(case)
  local ok = case.body
  local results = table.pack(pcall(concur.cancel_scope, function(scope)
    case.scope = scope
    local _ <close> = expect.guard(function()
      case.scope = nil
    end)
    return ok[1](table.unpack(ok, 2, ok.n))
  end))
  case.ended = true
  if not results[1] then
    return "failed", results[2]
  elseif not results[2] then
    return "cancelled"
  end
  return "done", table.unpack(results, 3, results.n)
end

---Waits until the victim has ended. Returns "done" and its results, "cancelled", or "failed" and
---its error.
---@async
---@return string outcome
---@return any ...
function Case:join()
  if self.mode.top then
    return join_top(self)
  end
  concur.wait { self.task }
  if self.mode.orphans then
    concur.sleep(20)
  end
  local state = self.task:state()
  if state == "failed" then
    return "failed", self.task:exception()
  elseif state == "cancelled" or self.caught then
    return "cancelled"
  end
  return "done", self.task:result()
end

---A value for `<close>` which must be closed exactly once by the end of the run.
---@param on_close? function may suspend
function Case:guard(on_close)
  local guard = expect.guard(on_close)
  guard.where = debug.traceback("made here", 2)
  self.guards[#self.guards + 1] = guard
  return guard
end

---Says that this run may hand errors to `on_error`.
function Case:allow_reports()
  self.reports_allowed = true
end

local function point_reached(case)
  if case.mode.top then
    if not case.scope then
      return
    end
  elseif not case.task or case.task:done() or (case.mode.scoped and not case.scope) then
    return
  end
  if case.mode.at == "wait" and concur.current_task() ~= case.task then
    return
  end
  case.points = case.points + 1
  if case.points == case.target or (case.mode.repeated and case.points > case.target) then
    case.fired = true
    case.mode.fire(case)
  end
end

local function check(case)
  for _, guard in ipairs(case.guards) do
    if guard.closed ~= 1 then
      error(("a <close> variable was closed %d times; %s"):format(guard.closed, guard.where), 0)
    end
  end
end

-- As testing.run, but `body` is called at top level.
local function run_top(body, order, on_error)
  local reports = {}
  local before = testing.counters()
  local clock, handler = core.use_clock(testing.Clock()), core.set_on_error(function(e, context)
    reports[#reports + 1] = { e, context.traceback }
  end)
  do
    local _ <close> = expect.guard(function()
      core.shuffle(nil)
      core.set_on_error(handler)
      core.use_clock(clock)
    end)
    core.shuffle(order or nil)
    body()
    collectgarbage() -- no run ends here: an error that nobody retrieved is reported when it is
    concur.checkpoint() -- found to be garbage, at the loop's next turn
  end
  for _, report in ipairs(reports) do
    on_error(report[1], report[2])
  end
  local lines = testing.leaks(before)
  if #lines > 0 then
    error("left behind:\n  " .. table.concat(lines, "\n  "), 0)
  end
end

-- One run of the scenario; returns false when the point was not reached any more.
local function run_once(scenario, mode, order, target)
  local case = setmetatable({
    mode = mode,
    target = target,
    points = 0,
    fired = false,
    guards = {},
  }, Case)
  local function hook()
    point_reached(case)
  end
  local unhook <close> = expect.guard(function()
    core.on_switch(nil)
    core.on_wait(nil)
  end)
  if mode.at == "switch" then
    core.on_switch(hook)
  else
    core.on_wait(hook)
  end
  local function body()
    local ok, e = xpcall(scenario, function(e)
      case.traceback = debug.traceback(nil, 2)
      return e
    end, case)
    if not ok and type(e) == "table" and e.kind == "Cancelled" then
      error(e, 0) -- by the run itself, which knows more: a deadlock
    elseif not ok then
      error(errors.format(e, case.traceback), 0)
    end
    check(case)
  end
  local function on_error(e, traceback)
    if not case.reports_allowed then
      error("nobody retrieved: " .. errors.format(e, traceback), 0)
    end
  end
  if mode.top then
    run_top(body, order, on_error)
  else
    testing.run(body, { shuffle = order or nil, on_error = on_error })
  end
  assert(case.task or case.ended, "the scenario made no victim")
  return case.fired, unhook
end

---Runs the scenario for every mode, order and point. Raises, and says at which point, when a
---check fails. Returns how many runs there were.
---@param scenario fun(case: table)
---@param options? {modes: string[]?, also: string[]?} `modes` replaces the default ones, `also`
---  adds some ("kill")
---@return integer runs
local function everywhere(scenario, options)
  options = options or {}
  local modes = table.move(options.modes or DEFAULT_MODES, 1, 10, 1, {})
  for _, name in ipairs(options.also or {}) do
    modes[#modes + 1] = name
  end
  local runs = 0
  for _, name in ipairs(modes) do
    for _, order in ipairs(ORDERS) do
      local target = 0
      repeat
        target = target + 1
        runs = runs + 1
        assert(target < MAX_POINTS, "the scenario does not end")
        local ok, again = pcall(run_once, scenario, MODES[name], order, target)
        if not ok then
          error(("cancelled in mode '%s' at point %d, %s:\n%s"):format(name, target,
            order and "shuffled with " .. order or "in order", errors.format(again)), 0)
        end
      until not again
    end
  end
  return runs
end

return everywhere
