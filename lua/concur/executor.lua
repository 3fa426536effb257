-- SPDX-License-Identifier: MIT
--
-- The part of executors that is written in Lua: `map` and shutting down, with futures and scopes.
-- The pool itself, `submit`, `run` and the futures of jobs are in C (csrc/pool_class.c).
--
-- `methods` is looked at by the class in C when a method is not found there.

local core = require "concur.core"
local concur = require "concur"
local errors = require "concur.errors"
local bad_argument = require("concur.arguments").bad

local M = {
  ThreadPoolExecutor = core.ThreadPoolExecutor,
  ProcessPoolExecutor = core.ProcessPoolExecutor,
  to_thread = core.to_thread,
  default_executor = core.default_executor,
}

local methods = {}
M.methods = methods

local CLOSE_GRACE = 2 -- seconds that jobs get to stop when a pool is closed in a hurry
local KILLED_AFTER = 5 -- seconds that the system may take to end a process that got KILL
local FORCE_AFTER = 0.1 -- seconds that a job gets to see its token before it is interrupted

-- Checks a table of options against {name = type}; nil is an empty table.
local function check_options(position, name, options, types)
  if options == nil then
    return {}
  end
  if type(options) ~= "table" then
    bad_argument(position, name, "table of options expected, got %s", type(options))
  end
  for key, value in pairs(options) do
    local expected = types[key]
    if not expected then
      bad_argument(position, name, "unknown option '%s'", tostring(key))
    end
    local actual = expected == "integer" and math.type(value) or type(value)
    if actual ~= expected or value ~= value then
      bad_argument(position, name, "option '%s': %s expected, got %s", key, expected,
        tostring(value))
    end
  end
  return options
end

-- Shutting down ---------------------------------------------------------------------------------

-- What to say about jobs that do not stop.
local function stuck_error(pool, running)
  local lines = {}
  for i, job in ipairs(running) do
    local name = job.name and "job '" .. job.name .. "'" or "a job"
    lines[i] = ("%s, which has run for %.1f s"):format(name, job.seconds)
    if job.traceback then
      lines[i] = lines[i] .. "\n" .. job.traceback
    end
  end
  return errors.new(
    "TimeoutError",
    ("%s: %d job%s did not stop and %s left behind: %s"):format(
      core.pool_name(pool),
      #running,
      #running == 1 and "" or "s",
      #running == 1 and "was" or "were",
      table.concat(lines, "; ")
    ),
    { jobs = running }
  )
end

-- Ends the pool within `grace` seconds: queued jobs are dropped, running ones asked to stop, then
-- interrupted, then given up. Returns true, or nil and an error that names what was given up.
local function stop_by_force(pool, grace)
  core.pool_close(pool, true)
  core.pool_stop(pool, false)
  local first = math.min(FORCE_AFTER, grace)
  if core.pool_join(pool, first) then
    return true
  end
  core.pool_stop(pool, true)
  if core.pool_join(pool, (grace - first) / 2) then
    return true
  end
  core.pool_stop(pool, true)
  local last = (grace - first) / 2
  if getmetatable(pool) == "concur.ProcessPoolExecutor" then
    last = math.max(last, KILLED_AFTER)
  end
  if core.pool_join(pool, last) then
    return true
  end
  local running = core.pool_running(pool)
  core.pool_abandon(pool)
  return nil, stuck_error(pool, running)
end

local function check_pool(self, name)
  if type(self) ~= "userdata" then
    bad_argument(1, name, "pool expected, got %s; is it called with a colon?", type(self))
  end
end

local SHUTDOWN_OPTIONS = { wait = "boolean", cancel_pending = "boolean", grace = "number" }

--[[@lua
---Accepts no more jobs, and waits until those that it has are done and its threads have ended.
---
---Options: `wait = false` does not wait; `cancel_pending = true` cancels the jobs that have not
---begun; `grace`: after so many seconds queued jobs are cancelled, running ones asked to stop,
---interrupted if they run Lua code, and at last left behind. Returns true, or `nil, err` when jobs
---were left behind: `err` (kind `TimeoutError`) names them, `err.jobs` lists them. Idempotent.
---@async
---@param options? {wait?: boolean, cancel_pending?: boolean, grace?: number}
---@return true? ended
---@return concur.Error? err
function ThreadPoolExecutor:shutdown(options) end
]]
function methods:shutdown(options)
  check_pool(self, "shutdown")
  options = check_options(1, "shutdown", options, SHUTDOWN_OPTIONS)
  core.pool_close(self, options.cancel_pending == true)
  if options.wait == false then
    return true
  end
  local grace = options.grace
  if core.pool_join(self, grace) then
    return true
  end
  return concur.shield(stop_by_force, self, CLOSE_GRACE / 2)
end

-- `__close`: a block that ends in order waits for the jobs; one that ends by an error, or is
-- cancelled while it waits, stops them, within a grace time.
function M.close(pool, err)
  if not core.pool_close(pool, err ~= nil) then
    return -- after a fork: the pool is the parent's
  end
  local interruption
  if err == nil then
    local ok, e = pcall(core.pool_join, pool)
    if ok then
      return
    end
    interruption = e
  end
  local _, stuck = concur.shield(stop_by_force, pool, CLOSE_GRACE)
  if stuck then
    io.stderr:write("concur: ", tostring(stuck), "\n")
  end
  if interruption ~= nil and not errors.is(interruption, "Cancelled") then
    error(interruption, 0)
  end
end

--[[@lua
---Ends the pool as leaving a block with `<close>` does: accepts no more jobs and waits for those that
---it has; cancelled meanwhile, it stops them, within a grace time. Idempotent.
---@async
function ThreadPoolExecutor:close() end
]]
function methods:close()
  check_pool(self, "close")
  M.close(self)
end

-- map -------------------------------------------------------------------------------------------

-- Runs in a worker: calls fn for each packed list of arguments, so that one job does several.
local function run_chunk(fn, inputs)
  if type(fn) == "string" then
    local module, name = fn:match "^(.*)%.([^.]+)$"
    fn = module and require(module)[name] or _G[fn]
  end
  local outputs = {}
  for i = 1, #inputs do
    local input = inputs[i]
    outputs[i] = table.pack(xpcall(fn, function(e)
      return { error = e, text = tostring(e), traceback = debug.traceback(nil, 2) }
    end, table.unpack(input, 1, input.n)))
  end
  return outputs
end

local MAP_OPTIONS = {
  window = "integer",
  chunk = "integer",
  ordered = "boolean",
  timeout = "number",
}

-- The iterator that `map` returns. Jobs in flight are *entries* {index=, future= or error=}: in
-- order from `first` to `last`, or unordered in `ready` once they are done.
local Map = {}
Map.__index = Map
Map.__name = "concur.MapIterator"
Map.__metatable = Map.__name

-- Returns a function that gives the next input as packed arguments, or nil at the end.
local function inputs_of(source)
  if type(source) ~= "table" or getmetatable(source) then
    return function()
      local input = table.pack(source())
      return input[1] ~= nil and input or nil
    end
  end
  local i, n = 0, math.tointeger(source.n) or #source
  return function()
    if i < n then
      i = i + 1
      return { n = 1, source[i] }
    end
  end
end

-- Takes up to `chunk` inputs from the source; nil at its end. The source's error ends it, and is
-- raised when everything before it has come out. What was taken when it was cancelled is kept.
function Map:take()
  local inputs = self.taken or {}
  self.taken = nil
  while #inputs < self.chunk and not self.exhausted do
    local ok, input = pcall(self.next_input)
    if ok then
      inputs[#inputs + 1] = input
      self.exhausted = input == nil
    elseif errors.is(input, "Cancelled") then
      self.taken = inputs
      core.rethrow(input)
    else
      self.exhausted = true
      self.source_error = { input }
    end
  end
  return #inputs > 0 and inputs or nil
end

-- Submits one job; a bounded queue is only waited for when nothing else is there to wait for.
local function submit(self, inputs)
  local pool = self.pool
  local method = self.flying == 0 and pool.submit or pool.try_submit
  if self.chunk == 1 then
    return method(pool, self.fn, table.unpack(inputs[1], 1, inputs[1].n))
  end
  return method(pool, run_chunk, self.fn, inputs)
end

-- Keeps `window` jobs in flight, as far as there are inputs and room in the queue.
function Map:fill()
  while self.flying < self.window do
    local inputs = self:take()
    if not inputs then
      return
    end
    local ok, future, err = pcall(submit, self, inputs)
    if not ok and errors.is(future, "Cancelled") then
      self.taken = inputs
      core.rethrow(future)
    elseif ok and not future then
      assert(errors.is(err, "WouldBlock"), err)
      self.taken = inputs
      return
    end
    local entry = { index = self.index }
    if ok then
      entry.future = future
    else
      entry.error = { future }
    end
    self.index = self.index + #inputs
    self.flying = self.flying + 1
    self:add(entry)
  end
end

function Map:add(entry)
  if self.ordered then
    self.last = self.last + 1
    self.entries[self.last] = entry
    return
  end
  self.entries[entry] = true
  local function on_done()
    self.ready[#self.ready + 1] = entry
    local signal = self.signal
    self.signal = nil
    if signal then
      signal:set_result()
    end
  end
  if entry.future then
    entry.future:add_done_callback(on_done)
  else
    on_done()
  end
end

function Map:remaining()
  return self.deadline and math.max(self.deadline - concur.now(), 0)
end

-- The entry whose turn it is; it stays where it is.
function Map:head()
  if self.ordered then
    return self.entries[self.first]
  end
  while not self.ready[1] do
    self.signal = concur.Future()
    self.signal:result(self:remaining())
  end
  return self.ready[1]
end

function Map:remove(entry)
  self.flying = self.flying - 1
  if self.ordered then
    self.entries[self.first] = nil
    self.first = self.first + 1
  else
    table.remove(self.ready, 1)
    self.entries[entry] = nil
  end
end

-- After pcall(future.result): a wait that was cut short leaves the entry for the next call; an
-- outcome takes it out.
function Map:finish(entry, ok, ...)
  if not ok and entry.future and not entry.future:done() then
    core.rethrow((...))
  end
  self:remove(entry)
  if not ok then
    core.rethrow((...))
  end
  return ...
end

function Map:results(entry)
  if entry.error then
    return self:finish(entry, false, entry.error[1])
  end
  return self:finish(entry, pcall(entry.future.result, entry.future, self:remaining()))
end

-- An element of a chunk, as run_chunk has packed it.
local function unpack_output(index, output)
  if output[1] then
    return index, table.unpack(output, 2, output.n)
  end
  local failure = output[2]
  local e = failure.error
  if getmetatable(e) ~= core.error_metatable then
    e = errors.new("RemoteError", failure.text, { value = e })
  end
  e.remote_traceback = failure.traceback
  error(e, 0)
end

function Map:__call()
  local outputs = self.outputs
  if outputs then
    local i = self.output
    self.output = i + 1
    if i == #outputs then
      self.outputs = nil
    end
    return unpack_output(self.output_index + i, outputs[i])
  end
  if self.closed then
    return nil
  end
  self:fill()
  if self.flying == 0 then
    local source_error = self.source_error
    self.source_error = nil
    if source_error then
      core.rethrow(source_error[1])
    end
    return nil
  end
  local entry = self:head()
  if self.chunk == 1 then
    return entry.index, self:results(entry)
  end
  self.outputs = self:results(entry)
  self.output = 1
  self.output_index = entry.index - 1
  return self()
end

-- Cancels the jobs that have not begun. Never waits.
function Map:close()
  if self.closed then
    return
  end
  self.closed = true
  self.outputs = nil
  for key, value in pairs(self.entries) do
    local future = (self.ordered and value or key).future
    if future and future:state() == "pending" then
      future:cancel "the iterator was closed"
    end
  end
end

Map.__close = Map.close
Map.__gc = Map.close

function Map:__tostring()
  local state = self.closed and "closed" or "open"
  return ("concur.MapIterator (%s, %d jobs in flight)"):format(state, self.flying)
end

local function check_source(source)
  if source == next then
    bad_argument(
      2,
      "map",
      "a list, or a function that returns the next arguments, expected, got 'next': "
        .. "for the pairs of a table, write a function that calls next with the last key"
    )
  end
  local meta = type(source) == "table" and getmetatable(source)
  local callable = type(source) == "function" or type(meta) == "table" and meta.__call
  if not callable and (type(source) ~= "table" or meta) then
    bad_argument(2, "map", "list or callable expected, got " .. type(source))
  end
end

--[[@lua
---Calls `fn` for each input on the pool's threads; for use in `for`:
---`for i, ... in pool:map(fn, list) do` gives the index of an input and the results of its call.
---
---Inputs come from a list (each element is one argument) or from a callable, whose results are the
---arguments until its first result is nil. They are taken as needed, so that `window` jobs are in
---flight. Options: `window` (default: four for each worker, at least 16); `chunk`, how many inputs
---one job does (1); `ordered = false`: results come as they are done; `timeout`: seconds from now
---after which the iterator raises `TimeoutError`.
---
---The iterator raises the error of a call, and goes on if it is called again. Closed early (`break`
---does it), it cancels its jobs that have not begun.
---@async
---@param fn function|string as for `submit`
---@param source any[]|function a list, or a callable
---@param options? {window?: integer, chunk?: integer, ordered?: boolean, timeout?: number}
---@return fun(): integer?, ...
---@return nil
---@return nil
---@return any closing value
function ThreadPoolExecutor:map(fn, source, options) end
]]
function methods:map(fn, source, options)
  if type(fn) ~= "function" and type(fn) ~= "string" then
    local text = "function, or a string \"module.function\", expected, got " .. type(fn)
    bad_argument(1, "map", text)
  end
  check_source(source)
  options = check_options(3, "map", options, MAP_OPTIONS)
  for _, name in ipairs { "window", "chunk" } do
    if options[name] and options[name] < 1 then
      bad_argument(3, "map", "option '%s' must be at least 1", name)
    end
  end
  local map = setmetatable({
    pool = self,
    fn = fn,
    next_input = inputs_of(source),
    window = options.window or math.max(16, 4 * core.pool_workers(self)),
    chunk = options.chunk or 1,
    ordered = options.ordered ~= false,
    deadline = options.timeout and concur.now() + math.max(options.timeout, 0),
    entries = {},
    ready = {},
    index = 1,
    first = 1,
    last = 0,
    flying = 0,
  }, Map)
  map:fill()
  return map, nil, nil, map
end

-- serialize -------------------------------------------------------------------------------------

--[[@lua
---Makes jobs that use a module run one at a time, for modules that are not safe to use from several
---threads. A job waits at its first call of one of the module's functions until no other job of this
---state or its workers holds any serialized module. To be called before a pool's first job; it does
---not affect calls outside of workers. Never suspends.
---@param name string as for `require`
function concur.serialize(name) end
]]
function M.serialize(name)
  require("concur.serialize").add(name)
end

return M
