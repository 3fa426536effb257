-- The event loop as scripts see it, runners, and concur.main.
local core = require "concur.core"
local bad_argument = require("concur.arguments").bad

local M = {}

local function invalid_state(message)
  error(require("concur.errors").new("InvalidState", message), 3)
end

--[[@lua
---The event loop of this Lua state.
---@class concur.EventLoop
local EventLoop = {}
]]
local EventLoop = { __name = "concur.EventLoop" }
EventLoop.__index = EventLoop
EventLoop.__metatable = EventLoop.__name

function EventLoop.__tostring(_)
  return ("concur.EventLoop (%s)"):format(core.is_running() and "running" or "idle")
end

local the_loop = setmetatable({}, EventLoop)

local function check_loop(loop, name)
  if loop ~= the_loop then
    bad_argument(1, name, "concur.EventLoop expected: use loop:" .. name)
  end
end

--[[@lua
---The event loop of this Lua state; there is one, made on first use.
---@return concur.EventLoop
function concur.get_event_loop() end
]]
function M.get_event_loop()
  return the_loop
end

--[[@lua
---Runs the loop until the awaitable has settled; returns its results or raises its error.
---An error while the loop runs: wait for the awaitable itself.
---@param awaitable concur.Future|concur.Task|table
---@return any ...
function EventLoop:run_until_complete(awaitable) end
]]
function EventLoop:run_until_complete(awaitable)
  check_loop(self, "run_until_complete")
  if core.is_running() then
    invalid_state("the loop runs already: use concur.await inside it")
  end
  return core.await(awaitable)
end

--[[@lua
---Runs the loop until `stop` is called.
function EventLoop:run_forever() end

---Ends `run_forever`.  An error inside `concur.run`.  Never suspends.
function EventLoop:stop() end

---Runs `fn(...)` on an executor; never suspends.
---@param executor concur.Executor|nil nil: the default thread pool
---@param fn function|string
---@param ... any
---@return concur.Future
function EventLoop:run_in_executor(executor, fn, ...) end

---Calls `fn(...)` at the loop's next turn.  `fn` may not suspend; its error goes to `on_error`.
---@param fn function
---@param ... any
---@return concur.Handle
function EventLoop:call_soon(fn, ...) end

---Calls `fn(...)` after `seconds`.
---@param seconds number
---@param fn function
---@param ... any
---@return concur.Handle
function EventLoop:call_later(seconds, fn, ...) end

---Calls `fn(...)` at a time of the loop's clock.
---@param time number seconds, see `EventLoop:time`
---@param fn function
---@param ... any
---@return concur.Handle
function EventLoop:call_at(time, fn, ...) end

---The loop's clock in seconds; the same as `concur.now()`.
---@return number
function EventLoop:time() end

---@return boolean
function EventLoop:is_running() end

---Ends all tasks in order and closes the loop; the next use makes a new one.
function EventLoop:close() end

---A descriptor that becomes readable when the loop has something to do; for hosts with a loop of
---their own.
---@return integer|nil fd nil where the system has none
function EventLoop:fd() end

---Runs what is ready, waiting at most `max_seconds` for something to come.
---@param max_seconds? number default 0: do not wait
function EventLoop:step(max_seconds) end

---Seconds until `step` has something to do: 0 now, nil when only the descriptor can tell.
---@return number|nil
function EventLoop:next_timeout() end
]]
for method, name in pairs {
  run_forever = "run_forever", stop = "stop", call_soon = "call_soon", call_later = "call_later",
  call_at = "call_at", time = "now", is_running = "is_running", close = "close", fd = "fd",
  step = "step", next_timeout = "next_timeout",
} do
  local implementation = core[name]
  EventLoop[method] = function(loop, ...)
    check_loop(loop, method)
    return implementation(...)
  end
end

function EventLoop:run_in_executor(executor, fn, ...)
  check_loop(self, "run_in_executor")
  if executor == nil then executor = require("concur.executor").default_executor() end
  return executor:submit(fn, ...)
end

--[[@lua
---Options for this state's loop, for any number of runs.
---@class concur.Runner
local Runner = {}
]]
local Runner = { __name = "concur.Runner" }
Runner.__index = Runner

function Runner:__tostring()
  return ("concur.Runner (%s)"):format(self.closed and "closed" or "open")
end

local runner_options = {
  debug = "boolean", clock = "userdata", on_error = "function", slow_callback = "number",
  handle_sigint = "boolean", shuffle = "number",
}

--[[@lua
---Makes a runner.
---  * `on_error(error, context)` gets errors that nobody retrieves; `context.message` says where one
---    comes from, `context.traceback` is its first traceback.
---  * `clock`: a `concur.testing.Clock()`, virtual time.
---  * `handle_sigint`: false leaves SIGINT alone.
---  * `slow_callback`: report steps of tasks and callbacks that take longer than so many seconds;
---    `debug = true` means 0.1.
---  * `shuffle`: an integer; the order of ready tasks follows this seed, for tests.
---@param options? {debug?: boolean, clock?: userdata, on_error?: function, slow_callback?: number, handle_sigint?: boolean, shuffle?: integer}
---@return concur.Runner
function concur.Runner(options) end
]]
function M.Runner(options)
  if options ~= nil and type(options) ~= "table" then
    bad_argument(1, "Runner", "table of options expected, got " .. type(options))
  end
  for key, value in pairs(options or {}) do
    local expected = runner_options[key]
    if not expected then
      bad_argument(1, "Runner", "unknown option '%s'", tostring(key))
    elseif type(value) ~= expected then
      bad_argument(1, "Runner", "option '%s': %s expected, got %s", key, expected, type(value))
    elseif key == "shuffle" and math.type(value) ~= "integer" then
      bad_argument(1, "Runner", "option 'shuffle' must be an integer")
    elseif value ~= value then
      bad_argument(1, "Runner", "option '%s' must not be NaN", key)
    end
  end
  local copy = {}
  for key, value in pairs(options or {}) do copy[key] = value end
  return setmetatable({ options = copy, closed = false }, Runner)
end

-- Applies the options; returns a function that restores what was before.
local function apply(options)
  local old_clock = options.clock and core.use_clock(options.clock)
  local old_on_error = options.on_error and core.set_on_error(options.on_error)
  local old_sigint = options.handle_sigint ~= nil and core.handle_sigint(options.handle_sigint)
  if options.shuffle then core.shuffle(options.shuffle) end
  local slow = options.slow_callback or (options.debug and 0.1)
  if slow then core.slow_callback(slow) end
  return function()
    if slow then core.slow_callback(nil) end
    if options.shuffle then core.shuffle(nil) end
    if options.handle_sigint ~= nil then core.handle_sigint(old_sigint) end
    if options.on_error then core.set_on_error(old_on_error) end
    if options.clock then core.use_clock(old_clock) end
  end
end

local function finish(restore, ok, ...)
  restore()
  if ok then return ... end
  core.rethrow((...))
end

--[[@lua
---As `concur.run`, with this runner's options.
---@param main function
---@param ... any
---@return any ...
function Runner:run(main, ...) end

---Closes the runner; further runs are errors.  Never suspends.
function Runner:close() end
]]
function Runner:run(main, ...)
  if getmetatable(self) ~= Runner then bad_argument(1, "run", "concur.Runner expected") end
  if self.closed then invalid_state("the runner is closed") end
  if core.is_running() then
    invalid_state("a run cannot be nested: the loop of this state runs already")
  end
  return finish(apply(self.options), xpcall(core.run, core.traceback_handler, main, ...))
end

function Runner:close()
  self.closed = true
end

Runner.__close = Runner.close

local function exit_code(ok, result)
  if not ok then
    local errors = require "concur.errors"
    if errors.is(result, "Interrupted") then core.die_by_sigint() end
    io.stderr:write(errors.format(result, core.first_traceback(result)), "\n")
    return false
  end
  if math.type(result) == "integer" or type(result) == "boolean" then return result end
  return true
end

--[[@lua
---For scripts: runs `fn(...)`, then ends the process.  An error is printed in full and the exit code
---is 1; an integer or boolean result is the exit code; after Ctrl-C the process ends by SIGINT.
---@param fn function
---@param ... any
function concur.main(fn, ...) end
]]
function M.main(fn, ...)
  os.exit(exit_code(xpcall(core.run, core.traceback_handler, fn, ...)), true)
end

return M
