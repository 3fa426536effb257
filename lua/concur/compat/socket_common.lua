-- SPDX-License-Identifier: MIT
--
-- What the objects of concur.compat.socket share: LuaSocket's words for errors, its time-outs, and
-- its options.

local concur = require "concur"
local core = require "concur.core"

local M = {}

-- LuaSocket answers most calls with 1, a float.
M.OK = 1.0

-- Errors ----------------------------------------------------------------------------------------

local WORDS = {
  ECONNREFUSED = "connection refused",
  ECONNRESET = "closed",
  ECONNABORTED = "closed",
  EPIPE = "closed",
  ETIMEDOUT = "timeout",
  EADDRINUSE = "address already in use",
  EACCES = "permission denied",
  EISCONN = "already connected",
  EAI_NONAME = "host or service not provided, or not known",
  EAI_AGAIN = "temporary failure in name resolution",
  EAI_FAIL = "non-recoverable failure in name resolution",
  EAI_SERVICE = "service not supported for socket type",
  EAI_FAMILY = "ai_family not supported",
  EAI_MEMORY = "memory allocation failure",
}

-- LuaSocket's string for an error of concur's; the end of a stream (nil) is "closed".
function M.words(err)
  if err == nil or err.kind == "Closed" then
    return "closed"
  end
  return WORDS[err.code] or err.errno and core.strerror(err.errno) or err.message
end

-- Arguments -------------------------------------------------------------------------------------

-- How the sources of this module and of the others of concur.compat.socket begin.
local OURS = debug.getinfo(1, "S").source:gsub("_common%.lua$", "")

-- Raises what a function in C raises for a wrong argument, in the line that called this module. An
-- object is argument 1 of its methods, and not counted where it was written before a colon.
function M.argument_error(argument, name, text)
  local level = 2 -- ends at the function that the user called
  while (debug.getinfo(level + 1, "S") or { source = "" }).source:sub(1, #OURS) == OURS do
    level = level + 1
  end
  if debug.getinfo(level, "n").namewhat == "method" then
    argument = argument - 1
  end
  local message = argument == 0 and "calling '%s' on bad self (%s)"
    or "bad argument #" .. argument .. " to '%s' (%s)"
  error(message:format(name, text), level + 1)
end

local function type_error(value, argument, name, expected)
  M.argument_error(argument, name, ("%s expected, got %s"):format(expected,
    value == nil and "no value" or type(value)))
end

-- The object must be of the class; LuaSocket's message otherwise.
function M.check_class(object, wanted, name)
  if type(object) ~= "table" or not wanted[object.class] then
    M.argument_error(1, name, wanted.name .. " expected")
  end
end

-- A string, or a number, which becomes one.
function M.check_string(value, argument, name)
  if type(value) ~= "string" and type(value) ~= "number" then
    type_error(value, argument, name, "string")
  end
  return tostring(value)
end

-- A number, or a string that is one.
function M.check_number(value, argument, name)
  local number = tonumber(value)
  return number or type_error(value, argument, name, "number")
end

function M.opt_number(value, argument, name, otherwise)
  return value == nil and otherwise or M.check_number(value, argument, name)
end

-- Time ------------------------------------------------------------------------------------------

function M.new_timeouts()
  return { block = -1.0, total = -1.0, started = core.wall_time() }
end

-- Begins a call that may wait: raises if the task is cancelled, and gives others their turn if there
-- was none for long, even when the call then returns at once. Returns when it is out of time, on
-- the loop's clock; nil: never.
function M.begin(self)
  core.checkpoint_if_cancelled()
  local block, total = self.timeouts.block, self.timeouts.total
  local seconds = block >= 0 and (total >= 0 and math.min(block, total) or block) or total
  return seconds >= 0 and concur.now() + seconds or nil
end

-- Calls `fn(...)`, which waits, until the deadline: true and its results, or false.
function M.until_deadline(deadline, fn, ...)
  if not deadline then
    return true, fn(...)
  elseif deadline <= concur.now() then
    return false
  end
  return concur.move_on_at(deadline, fn, ...)
end

-- Options ---------------------------------------------------------------------------------------

-- The option's kind: its name is checked as LuaSocket does.
local function check_option(option, name)
  option = M.check_string(option, 2, name)
  local kind = core.socket_option_kind(option)
  if not kind or kind == "error" and name == "setoption" then
    M.argument_error(2, name, ("unsupported option `%s'"):format(option))
  end
  return kind
end

-- Gives a class what TCP and UDP objects have in common; `any` is what its objects may be.
function M.add_methods(class, any)
  -- `object:settimeout(value, mode)`
  function class:settimeout(value, mode)
    M.check_class(self, any, "settimeout")
    value = M.opt_number(value, 2, "settimeout", -1) + 0.0
    mode = mode == nil and "b" or M.check_string(mode, 3, "settimeout")
    local first = mode:sub(1, 1)
    if first == "b" then
      self.timeouts.block = value
    elseif first == "t" or first == "r" then
      self.timeouts.total = value
    else
      M.argument_error(3, "settimeout", "invalid timeout mode")
    end
    return M.OK
  end

  -- `object:gettimeout()`: both, as they were set
  function class:gettimeout()
    M.check_class(self, any, "gettimeout")
    return self.timeouts.block, self.timeouts.total
  end

  -- `object:setoption(name, value)`: an object without a descriptor keeps it until it has one.
  function class:setoption(name, value)
    M.check_class(self, any, "setoption")
    local kind = check_option(name, "setoption")
    if type(value) ~= kind then
      type_error(value, 3, "setoption", kind)
    end
    local fd = self:getfd()
    if self.closed then
      return nil, "setsockopt failed"
    elseif fd < 0 then
      self.options[name] = value
      return M.OK
    end
    if not core.socket_set(fd, name, value) then
      return nil, "setsockopt failed"
    end
    return M.OK
  end

  -- `object:getoption(name)`
  function class:getoption(name)
    M.check_class(self, any, "getoption")
    check_option(name, "getoption")
    local fd = self:getfd()
    local value
    if fd >= 0 then
      value = core.socket_get(fd, name)
    else
      value = self.options[name]
    end
    if value == nil and name ~= "error" then
      return nil, "getsockopt failed"
    end
    return value
  end

  -- `object:getfamily()`
  function class:getfamily()
    M.check_class(self, any, "getfamily")
    return self.family == "inet6" and "inet6" or "inet4"
  end
end

-- The object has a descriptor now: sets the options that it kept.
function M.apply_options(self)
  for name, value in pairs(self.options) do
    core.socket_set(self:getfd(), name, value)
  end
  self.options = {}
end

-- Names -----------------------------------------------------------------------------------------

-- A port as a number: LuaSocket takes 80, "80" and "http". Or nil and an error.
function M.port_number(port, argument, name)
  port = M.check_string(port, argument, name)
  local number = tonumber(port)
  if not number then
    local list, err = concur.dns.resolve("127.0.0.1", port)
    return list and list[1].port, list == nil and M.words(err) or nil
  end
  number = math.tointeger(number)
  if not number or number < 0 or number > 65535 then
    return nil, WORDS.EAI_SERVICE
  end
  return number
end

-- Host and port, as the object's own address functions give them, in LuaSocket's form.
function M.address(host, port, as_string)
  if not host then
    return nil, M.words(port)
  end
  return host, as_string and tostring(port) or port, host:find(":", 1, true) and "inet6" or "inet"
end

return M
