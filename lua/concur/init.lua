---An event loop, tasks, futures and executors for Lua 5.4.
---
---The functions of the C core are here from the start; everything written in Lua is loaded on its
---first use, so that `require "concur"` stays cheap.
---@class concur
local concur = {}

local core = require "concur.core"

-- What the C core gives as it is.
for _, name in ipairs {
  "run", "spawn", "await", "Future", "current_task", "all_tasks", "sleep", "checkpoint",
  "sleep_forever", "suspend", "now", "gather", "settle", "race", "any", "task_group", "timeout",
  "timeout_at", "move_on_after", "move_on_at", "cancel_scope", "shield", "current_scope",
  "effective_deadline", "pcall", "xpcall", "ContextVar", "wrap", "select", "after", "Lock", "Event",
  "Semaphore", "Queue", "LifoQueue", "PriorityQueue", "SharedBuffer", "Channel", "transferable",
  "transfer_limit", "cancelled", "cpu_count",
} do
  concur[name] = core[name]
end

-- What is written in Lua: name -> module, whose field of that name it is.
local lazy = {
  async = "concur.tasks",
  wait = "concur.tasks",
  as_completed = "concur.tasks",
  main = "concur.event_loop",
  Runner = "concur.event_loop",
  get_event_loop = "concur.event_loop",
  Condition = "concur.sync",
  CapacityLimiter = "concur.sync",
  Barrier = "concur.sync",
  ThreadPoolExecutor = "concur.executor",
  ProcessPoolExecutor = "concur.executor",
  to_thread = "concur.executor",
  default_executor = "concur.executor",
  serialize = "concur.executor",
  module = "concur.module_proxy",
  include_dir = "concur.c_api",
}

-- Modules of their own: `concur.errors` is `require "concur.errors"`.
local modules = {
  errors = true,
  testing = true,
  progress = true,
  net = true,
  dns = true,
  process = true,
  signal = true,
}

local group_start -- group:start, loaded with concur.tasks

function core.group_methods.start(group, fn, ...)
  group_start = group_start or require("concur.tasks").group_start
  return group_start(group, fn, ...)
end

-- The methods of errors are written in Lua; concur.errors replaces these two when it is loaded.
local error_metatable = core.error_metatable

function error_metatable.__index(err, name)
  require "concur.errors"
  return err[name]
end

function error_metatable.__concat(a, b)
  require "concur.errors"
  return a .. b
end

return setmetatable(concur, {
  __name = "concur",
  __index = function(_, name)
    local value
    if modules[name] then
      value = require("concur." .. name)
    elseif lazy[name] then
      value = require(lazy[name])[name]
    end
    concur[name] = value
    return value
  end,
})
