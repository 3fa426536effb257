-- Condition, CapacityLimiter and Barrier, on the core's parking lot: whoever makes something
-- available hands it to the first in line before that one runs.
local core = require "concur.core"
local bad_argument = require("concur.arguments").bad

local M = {}

local function new_error(kind, message)
  return require("concur.errors").new(kind, message)
end

local function invalid_state(message)
  error(new_error("InvalidState", message), 3)
end

local function would_block(message)
  return nil, new_error("WouldBlock", message)
end

-- Who asks: the running task, or a mark for the top level.
local top_level = {}
local function current()
  return core.current_task() or top_level
end

local function class(name)
  local c = { __name = name, __metatable = name }
  c.__index = c
  return c
end

-- After all methods are there: each checks that it was called with a colon.
local function seal(c)
  local name = c.__name
  for key, method in pairs(c) do
    if type(method) == "function" and key:sub(1, 2) ~= "__" then
      c[key] = function(self, ...)
        if getmetatable(self) ~= name or type(self) ~= "table" then
          bad_argument(1, key, "%s expected, got %s", name, type(self))
        end
        return method(self, ...)
      end
    end
  end
end

-- Calls `release(object)` after fn, however it ends; used for `with`.
local function finish(object, release, ok, ...)
  release(object)
  if ok then return ... end
  core.rethrow((...))
end

local function call_with(object, release, fn, ...)
  return finish(object, release, xpcall(fn, core.traceback_handler, ...))
end

---------------------------------------------------------------------------------- Condition

--[[@lua
---Waiting for a state that a lock protects.
---@class concur.Condition
local Condition = {}
]]
local Condition = class "concur.Condition"

--[[@lua
---@param lock? concur.Lock default: a new one
---@return concur.Condition
function concur.Condition(lock) end

---Waits for the lock and takes it: `local _ <close> = condition:acquire()`.
---@async
---@return concur.Lock
function Condition:acquire() end

---@return concur.Lock|nil
---@return concur.Error|nil err of kind `WouldBlock`
function Condition:try_acquire() end

function Condition:release() end

---@return boolean
function Condition:locked() end

---Calls `fn(...)` holding the lock.
---@async
---@param fn function
---@param ... any
---@return any ...
function Condition:with(fn, ...) end

---Releases the lock, waits for a notification and takes the lock again, also when cancelled: then
---`Cancelled` is raised holding the lock.  Raises `InvalidState` without the lock.
---@async
function Condition:wait() end

---Waits until `predicate()` is true; returns its value.
---@async
---@param predicate fun(): any
---@return any
function Condition:wait_for(predicate) end

---Wakes `n` of those who wait, first come, first served.  Raises `InvalidState` without the lock.
---@param n? integer default 1
function Condition:notify(n) end

---Wakes all.
function Condition:notify_all() end

---@return integer count of tasks that wait for a notification
function Condition:waiters() end
]]
function M.Condition(lock)
  if lock == nil then
    lock = core.Lock()
  elseif getmetatable(lock) ~= "concur.Lock" then
    bad_argument(1, "Condition", "concur.Lock expected, got " .. type(lock))
  end
  return setmetatable({ lock = lock, lot = core.ParkingLot(), holder = nil }, Condition)
end

function Condition:acquire()
  return self.lock:acquire()
end

function Condition:try_acquire()
  return self.lock:try_acquire()
end

function Condition:release()
  return self.lock:release()
end

function Condition:locked()
  return self.lock:locked()
end

function Condition:with(fn, ...)
  return self.lock:with(fn, ...)
end

local function check_owner(self, what)
  if not self.lock:held() then
    error(new_error("InvalidState", what .. " needs the condition's lock"), 3)
  end
end

function Condition:wait()
  check_owner(self, "Condition:wait()")
  self.lock:release()
  local ok, err = pcall(self.lot.park, self.lot)
  core.shield(self.lock.acquire, self.lock)
  if not ok then core.rethrow(err) end
end

function Condition:wait_for(predicate)
  if type(predicate) ~= "function" then
    bad_argument(1, "wait_for", "function expected, got " .. type(predicate))
  end
  check_owner(self, "Condition:wait_for()")
  local value = predicate()
  while not value do
    self:wait()
    value = predicate()
  end
  return value
end

function Condition:notify(n)
  check_owner(self, "Condition:notify()")
  if n ~= nil and (math.type(n) ~= "integer" or n < 0) then
    bad_argument(1, "notify", "a number of tasks, at least 0, expected")
  end
  self.lot:unpark(n or 1)
end

function Condition:notify_all()
  check_owner(self, "Condition:notify_all()")
  self.lot:unpark(self.lot:size())
end

function Condition:waiters()
  return self.lot:size()
end

function Condition:__tostring()
  return ("concur.Condition (%s, %d waiting)"):format(
    self.lock:locked() and "locked" or "free", self.lot:size())
end

seal(Condition)

----------------------------------------------------------------------------- CapacityLimiter

--[[@lua
---A number of tokens, each lent to one task: limits how many do something at a time.
---@class concur.CapacityLimiter
local CapacityLimiter = {}
]]
local CapacityLimiter = class "concur.CapacityLimiter"

local function check_total(name, n)
  if not (math.type(n) == "integer" and n >= 0 or n == math.huge) then
    bad_argument(1, name, "a number of tokens, at least 0, expected")
  end
end

--[[@lua
---@param tokens integer|number at least 0, or `math.huge`
---@return concur.CapacityLimiter
function concur.CapacityLimiter(tokens) end

---Waits for a token for the running task: `local _ <close> = limiter:acquire()`.
---Raises `InvalidState` when the task has one.
---@async
---@return concur.CapacityLimiter itself; its `<close>` gives the token back
function CapacityLimiter:acquire() end

---@return concur.CapacityLimiter|nil
---@return concur.Error|nil err of kind `WouldBlock`
function CapacityLimiter:try_acquire() end

---Gives the running task's token back.  Raises `InvalidState` when it has none.
function CapacityLimiter:release() end

---Calls `fn(...)` with a token.
---@async
---@param fn function
---@param ... any
---@return any ...
function CapacityLimiter:with(fn, ...) end

---The number of tokens; given one, changes it (more wakes tasks in line; fewer takes effect as tokens
---come back).
---@param tokens? integer|number
---@return integer|number
function CapacityLimiter:total(tokens) end

---@return integer tokens lent
function CapacityLimiter:borrowed() end

---@return integer|number tokens free
function CapacityLimiter:available() end

---@return integer count of tasks in line
function CapacityLimiter:waiters() end
]]
function M.CapacityLimiter(tokens)
  check_total("CapacityLimiter", tokens)
  return setmetatable({
    tokens = tokens,
    lent = 0,
    borrowers = setmetatable({}, { __mode = "k" }),
    lot = core.ParkingLot(),
  }, CapacityLimiter)
end

local function check_new_borrower(self)
  local task = current()
  if self.borrowers[task] then
    error(new_error("InvalidState", "this task has a token of the limiter already"), 3)
  end
  return task
end

function CapacityLimiter:acquire()
  local task = check_new_borrower(self)
  if self.lent < self.tokens and self.lot:size() == 0 then
    core.checkpoint_if_cancelled()
    self.lent = self.lent + 1
  else
    self.lot:park() -- whoever wakes this task counts the token as lent to it
  end
  self.borrowers[task] = true
  return self
end

function CapacityLimiter:try_acquire()
  local task = check_new_borrower(self)
  if self.lent >= self.tokens then return would_block("no token is free") end
  self.lent = self.lent + 1
  self.borrowers[task] = true
  return self
end

-- Hands tokens that are free to those in line.
local function hand_out(self)
  while self.lent < self.tokens and self.lot:unpark(1) == 1 do self.lent = self.lent + 1 end
end

local function give_back(self)
  self.borrowers[current()] = nil
  self.lent = self.lent - 1
  hand_out(self)
end

function CapacityLimiter:release()
  if not self.borrowers[current()] then invalid_state("this task has no token of the limiter") end
  give_back(self)
end

function CapacityLimiter:__close()
  if self.borrowers[current()] then give_back(self) end
end

function CapacityLimiter:with(fn, ...)
  self:acquire()
  return call_with(self, CapacityLimiter.__close, fn, ...)
end

function CapacityLimiter:total(tokens)
  if tokens ~= nil then
    check_total("total", tokens)
    self.tokens = tokens
    hand_out(self)
  end
  return self.tokens
end

function CapacityLimiter:borrowed()
  return self.lent
end

function CapacityLimiter:available()
  return math.max(self.tokens - self.lent, 0)
end

function CapacityLimiter:waiters()
  return self.lot:size()
end

function CapacityLimiter:__tostring()
  return ("concur.CapacityLimiter (%d of %s lent, %d waiting)"):format(
    self.lent, tostring(self.tokens), self.lot:size())
end

seal(CapacityLimiter)

------------------------------------------------------------------------------------- Barrier

--[[@lua
---A point where `n` tasks wait for each other; usable again and again.
---@class concur.Barrier
local Barrier = {}
]]
local Barrier = class "concur.Barrier"

--[[@lua
---@param n integer at least 1
---@return concur.Barrier
function concur.Barrier(n) end

---Waits until `n` tasks wait.  A task that is cancelled leaves; the others go on waiting.
---@async
---@return integer position 1 for the first in line, `n` for the task that came last
function Barrier:wait() end

---@return integer n
function Barrier:size() end

---@return integer count of tasks that wait now
function Barrier:waiters() end
]]
function M.Barrier(n)
  if math.type(n) ~= "integer" or n < 1 then
    bad_argument(1, "Barrier", "a number of tasks, at least 1, expected")
  end
  return setmetatable({ n = n, lot = core.ParkingLot() }, Barrier)
end

function Barrier:wait()
  if self.lot:size() + 1 < self.n then return self.lot:park() end
  core.checkpoint_if_cancelled()
  local position = 1
  while self.lot:unpark(1, position) == 1 do position = position + 1 end
  return self.n
end

function Barrier:size()
  return self.n
end

function Barrier:waiters()
  return self.lot:size()
end

function Barrier:__tostring()
  return ("concur.Barrier (%d of %d waiting)"):format(self.lot:size(), self.n)
end

seal(Barrier)

return M
