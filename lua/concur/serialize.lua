-- SPDX-License-Identifier: MIT
--
-- concur.serialize: modules that must not be used by two threads at a time.
--
-- One token, in a channel, is shared by a state and all its workers. In a worker, the first call of a
-- function of such a module takes the token; the end of the job gives it back. There is one token for
-- all serialized modules: with one each, two jobs could take them in different order.

local core = require "concur.core"

local M = {}

-- {token = Channel, names = {[name] = true}}; travels to workers with the pool's environment
-- (csrc/environment.c), as it is at the pool's first job.
M.state = nil

function M.add(name)
  if type(name) ~= "string" then
    error("bad argument #1 to 'serialize' (string expected, got " .. type(name) .. ")", 3)
  end
  if not M.state then
    local token = core.Channel(1)
    token:try_send(true)
    M.state = { token = token, names = {} }
  end
  M.state.names[name] = true
end

-- In a worker ------------------------------------------------------------------------------------

local holding = false

local function take()
  if not holding then
    M.state.token:recv()
    holding = true
  end
end

local function give_back()
  if holding then
    holding = false
    M.state.token:try_send(true)
  end
end

-- A table that looks like the module, whose functions take the token first.
local function guard(module)
  if type(module) == "function" then
    return function(...)
      take()
      return module(...)
    end
  elseif type(module) ~= "table" then
    return module
  end
  local guarded = setmetatable({}, { __mode = "k" })
  return setmetatable({}, {
    __index = function(_, key)
      local value = module[key]
      if type(value) ~= "function" then
        return value
      end
      guarded[value] = guarded[value] or guard(value)
      return guarded[value]
    end,
    __newindex = module,
    __pairs = function()
      return pairs(module)
    end,
    __call = function(_, ...)
      take()
      return module(...)
    end,
  })
end

-- Finds the module with the searchers behind this one.
local function searcher(name)
  if not M.state.names[name] then
    return nil
  end
  for i = 2, #package.searchers do
    local loader, data = package.searchers[i](name)
    if type(loader) == "function" then
      return function(...)
        local module = loader(...)
        if module == nil then
          module = package.loaded[name]
        end
        return guard(module)
      end, data
    end
  end
end

-- Called when a worker's state is made.
function M.install(state)
  M.state = state
  table.insert(package.searchers, 1, searcher)
  for name in pairs(state.names) do
    local module = package.loaded[name]
    if module ~= nil then
      package.loaded[name] = guard(module)
      if rawequal(_G[name], module) then
        _G[name] = package.loaded[name]
      end
    end
  end
  core.at_job_end(give_back)
end

return M
