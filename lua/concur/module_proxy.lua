-- SPDX-License-Identifier: MIT
--
-- concur.module: a blocking module, used from tasks. Its functions run on worker threads; objects
-- that they return stay where they were made, behind handles.
--
-- A *lane* is a pool with one worker. A call of a module's function goes to a lane without objects
-- that is idle, if there is one; a call with an object, or a method of it, to the lane of the object.

local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"
local bad_argument = require("concur.arguments").bad

local M = {}

local MOST_LANES = 8

local private = setmetatable({}, { __mode = "k" }) -- proxy or handle -> what is behind it

-- Handles ---------------------------------------------------------------------------------------

local Handle = { __name = "concur.Handle", __metatable = "concur.Handle" }

-- The handle of an object that has come; each object has one as long as it is used.
local function handle_of(lane, number, name)
  local handle = lane.handles[number]
  if not handle then
    handle = setmetatable({}, Handle)
    private[handle] = { lane = lane, number = number, name = name, given = 0, methods = {} }
    lane.handles[number] = handle
    lane.pins = lane.pins + 1
  end
  private[handle].given = private[handle].given + 1
  return handle
end

local function open_handle(handle)
  local self = private[handle]
  if not self or not self.number then
    error(errors.new("Closed", "the object behind this handle was closed"), 3)
  end
  return self
end

-- Packs arguments: which of them are handles, then all, with numbers for handles.
local function pack_arguments(lane, ...)
  local places
  local values = table.pack(...)
  for i = 1, values.n do
    if getmetatable(values[i]) == "concur.Handle" then
      local self = open_handle(values[i])
      if self.lane ~= lane then
        local text = "argument %d: the object lives in another worker than the one of this call"
        error(errors.new("TransferError", text:format(i), { path = "argument " .. i }), 0)
      end
      places = places or {}
      places[i] = true
      values[i] = self.number
    end
  end
  return places, table.unpack(values, 1, values.n)
end

local function unpack_results(lane, kept, ...)
  if not kept then
    return ...
  end
  local values = table.pack(...)
  for i, name in pairs(kept) do
    values[i] = handle_of(lane, values[i], name)
  end
  return table.unpack(values, 1, values.n)
end

local function finish(lane, ok, ...)
  lane.busy = lane.busy - 1
  if not ok then
    core.rethrow((...))
  end
  return unpack_results(lane, ...)
end

-- Runs a function of module_worker on the lane.
local function run(lane, name, ...)
  lane.busy = lane.busy + 1
  return finish(lane, pcall(lane.pool.run, lane.pool, "concur.module_worker." .. name, ...))
end

-- Lets the object go. Does not wait.
local function release(handle)
  local self = private[handle]
  if self and self.number then
    local number, pool = self.number, self.lane.pool
    self.number = nil
    if self.lane.handles[number] == handle then
      self.lane.handles[number] = nil
    end
    self.lane.pins = self.lane.pins - 1
    pcall(pool.submit, pool, "concur.module_worker.release", number, self.given)
  end
end

local function after_close(handle, ...)
  release(handle)
  return ...
end

function Handle:__index(name)
  local methods = open_handle(self).methods
  local method = methods[name]
  if not method then
    method = function(handle, ...)
      local behind = open_handle(handle)
      local lane, number = behind.lane, behind.number
      if name == "close" then
        return after_close(handle, run(lane, "method", number, name, pack_arguments(lane, ...)))
      end
      return run(lane, "method", number, name, pack_arguments(lane, ...))
    end
    methods[name] = method
  end
  return method
end

function Handle:__call(...)
  local behind = open_handle(self)
  return run(behind.lane, "invoke", behind.number, pack_arguments(behind.lane, ...))
end

function Handle:__tostring()
  local self_private = private[self]
  return ("concur.Handle (%s%s)"):format(self_private.number and "" or "closed ", self_private.name)
end

Handle.__close = release
Handle.__gc = release

-- Proxies ---------------------------------------------------------------------------------------

local Proxy = { __name = "concur.Module", __metatable = "concur.Module" }

local function new_lane(group)
  local lane = {
    pool = concur.ThreadPoolExecutor { workers = 1, name = "module " .. group.name },
    busy = 0, -- calls that run or wait
    pins = 0, -- objects that live there
    handles = setmetatable({}, { __mode = "v" }), -- number -> handle
  }
  group.lanes[#group.lanes + 1] = lane
  for _, assignment in ipairs(group.assignments) do
    lane.pool:submit("concur.module_worker.assign", group.name, assignment[1], assignment[2])
  end
  return lane
end

-- A lane for a call that belongs to no object.
local function pick_lane(group)
  local best
  for _, lane in ipairs(group.lanes) do
    if lane.busy == 0 and lane.pins == 0 then
      return lane
    end
    if not best or lane.busy < best.busy or lane.busy == best.busy and lane.pins < best.pins then
      best = lane
    end
  end
  if #group.lanes < group.most then
    return new_lane(group)
  end
  return best
end

-- The lane of the first handle among the arguments.
local function lane_of_arguments(...)
  for i = 1, select("#", ...) do
    local argument = select(i, ...)
    if getmetatable(argument) == "concur.Handle" then
      return open_handle(argument).lane
    end
  end
end

local function new_proxy(group, path)
  local proxy = setmetatable({}, Proxy)
  private[proxy] = { group = group, path = path, fields = {} }
  return proxy
end

local function from_look(self, path, kind, kept, value)
  local group = self.group
  if kind == "function" then
    return function(...)
      local lane = lane_of_arguments(...) or pick_lane(group)
      return run(lane, "call", group.name, path, pack_arguments(lane, ...))
    end
  elseif kind == "table" then
    return new_proxy(group, path)
  end
  if kept then
    local text = ("%s.%s is an object, which cannot leave its worker"):format(group.name, path)
    error(errors.new("TransferError", text, { path = path }), 0)
  end
  return value
end

-- The first look at a field asks a worker; functions and tables are remembered.
function Proxy:__index(name)
  local behind = private[self]
  local field = behind.fields[name]
  if field then
    return field
  end
  if type(name) ~= "string" then
    return nil
  end
  local path = behind.path and behind.path .. "." .. name or name
  local lane = pick_lane(behind.group)
  -- The results of look are not handles: unpack them here.
  lane.busy = lane.busy + 1
  local look = "concur.module_worker.look"
  local results = table.pack(pcall(lane.pool.run, lane.pool, look, behind.group.name, path))
  lane.busy = lane.busy - 1
  if not results[1] then
    core.rethrow(results[2])
  end
  field = from_look(behind, path, table.unpack(results, 2, results.n))
  if type(field) == "function" or getmetatable(field) == "concur.Module" then
    behind.fields[name] = field
  end
  return field
end

-- Assigns in every worker, also in those that come later.
function Proxy:__newindex(name, value)
  local behind = private[self]
  local group = behind.group
  local path = behind.path and behind.path .. "." .. name or name
  local futures = {}
  for i, lane in ipairs(group.lanes) do
    futures[i] = lane.pool:submit("concur.module_worker.assign", group.name, path, value)
  end
  group.assignments[#group.assignments + 1] = { path, value }
  for _, future in ipairs(futures) do
    future:result()
  end
end

function Proxy:__tostring()
  local behind = private[self]
  return ("concur.Module (%s, %d workers)"):format(behind.group.name, #behind.group.lanes)
end

function Proxy:__close()
  for _, lane in ipairs(private[self].group.lanes) do
    lane.pool:shutdown()
  end
end

--[[@lua
---Returns a proxy of a blocking module: each call of one of its functions runs on a worker thread and
---suspends the calling task. Arguments and results are copied.
---
---Objects that cannot be copied (a connection, a file) stay in their worker; what is returned is a
---handle, whose methods run there. `close` closes the object; so do `<close>` and the collector.
---Fields are read from a worker at each look (functions and tables of functions only once); an
---assignment goes to all workers. `workers` (8): how many threads it may use.
---@async
---@param name string as for `require`
---@param options? {workers?: integer}
---@return table proxy
function concur.module(name, options) end
]]
function M.module(name, options)
  if type(name) ~= "string" then
    bad_argument(1, "module", "string expected, got %s", type(name))
  end
  options = options or {}
  for key in pairs(options) do
    if key ~= "workers" then
      bad_argument(2, "module", "unknown option '%s'", tostring(key))
    end
  end
  local most = options.workers or MOST_LANES
  if math.type(most) ~= "integer" or most < 1 then
    bad_argument(2, "module", "option 'workers' must be an integer of at least 1")
  end
  local group = { name = name, lanes = {}, assignments = {}, most = most }
  local proxy = new_proxy(group, nil)
  local lane = new_lane(group)
  lane.pool:run("require", name) -- a module that is not there is an error here
  return proxy
end

return M
