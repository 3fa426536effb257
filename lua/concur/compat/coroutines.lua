-- SPDX-License-Identifier: MIT
--
-- Lua's library `coroutine`, on generators of concur: what runs in a coroutine may suspend the task.
-- For modules that were written for blocking calls and make coroutines of their own around them
-- (`socket.require` gives it to them).
--
-- A coroutine made here is a table, not a thread; the functions take real threads as well.

local concur = require "concur"

local M = setmetatable({}, { __index = coroutine })

local Coroutine = { __name = "coroutine" }
Coroutine.__index = Coroutine

local function is_ours(co)
  return getmetatable(co) == Coroutine
end

M.wrap = concur.wrap

function M.create(fn)
  if type(fn) ~= "function" then
    error("bad argument #1 to 'create' (function expected)", 2)
  end
  local self = setmetatable({ state = "suspended" }, Coroutine)
  local function finish(...)
    self.state = "dead"
    return ...
  end
  self.generator = concur.wrap(function(...)
    return finish(fn(...))
  end)
  return self
end

local function resumed(self, ok, ...)
  if not ok then
    self.state = "dead"
  elseif self.state ~= "dead" then
    self.state = "suspended"
  end
  return ok, ...
end

function M.resume(co, ...)
  if not is_ours(co) then
    return coroutine.resume(co, ...)
  elseif co.state ~= "suspended" then
    return false, ("cannot resume %s coroutine"):format(co.state == "dead" and "dead"
      or "non-suspended")
  end
  co.state = "running"
  return resumed(co, concur.pcall(co.generator, ...))
end

function M.status(co)
  return is_ours(co) and co.state or coroutine.status(co)
end

function M.close(co)
  if not is_ours(co) then
    return coroutine.close(co)
  elseif co.state == "running" then
    error("cannot close a running coroutine", 2)
  end
  co.state = "dead"
  return concur.pcall(co.generator.close, co.generator)
end

return M
