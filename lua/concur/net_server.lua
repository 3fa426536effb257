-- SPDX-License-Identifier: MIT
--
-- Servers: what concur.net.serve does once it has a listener.
--
-- The task that serves accepts. Each connection is a task of a group, and that group is in a task of
-- its own (the *keeper*), because handlers may outlive the accepting by the grace time, and the
-- server's task may be killed meanwhile.

local concur = require "concur"
local core = require "concur.core"

local M = {}

local GRACE = 5 -- seconds that handlers have when a server ends
local RETRY_FIRST, RETRY_MOST = 0.01, 1 -- seconds between two tries while descriptors are used up

-- The tasks of a server's connections.
local Handlers = {}
Handlers.__index = Handlers

function Handlers.new(options)
  return setmetatable({ grace = options.grace or GRACE, streams = {}, count = 0,
    stop = concur.Event(), changed = concur.Event() }, Handlers)
end

-- Begins the group. Whatever happens in here, __close ends it.
function Handlers:begin(listener)
  local begun = concur.Event()
  self.keeper = concur.spawn(function()
    concur.task_group(function(group)
      self.group = group
      begun:set()
      self.stop:wait()
    end)
  end)
  self.keeper:set_name "net.serve"
  -- It fails only for want of memory; then nothing can be served any more.
  self.keeper:add_done_callback(function()
    listener:close()
  end)
  if concur.select { begun = begun:waiting(), ended = self.keeper } == "ended" then
    self.keeper:result() -- raises: it could not begin
  end
end

-- Raises if the group itself has failed.
function Handlers:check()
  if self.keeper:state() == "failed" then
    self.keeper:result()
  end
end

-- Waits until fewer than `limit` connections are served.
function Handlers:wait_below(limit)
  while self.count >= limit do
    self.changed:clear()
    self.changed:wait()
  end
end

-- Takes a new stream: whatever happens from now on, it will be closed.
function Handlers:add(stream)
  self.streams[stream] = true
  self.count = self.count + 1
end

function Handlers:remove(stream)
  self.streams[stream] = nil
  self.count = self.count - 1
  self.changed:set()
end

function Handlers:spawn(fn, stream, on_error)
  self.group:spawn(function()
    local _ <close> = setmetatable({}, { __close = function()
      self:remove(stream)
    end })
    local _ <close> = stream
    local ok, err = concur.xpcall(fn, core.traceback_handler, stream)
    if not ok then
      on_error(err, stream, core.first_traceback(err))
    end
  end)
end

-- No more connections: handlers have the grace time, then they are cancelled, and joined. If the
-- server's task is killed, before this or in the middle of it, they are cancelled and end by themselves.
function Handlers:__close()
  self.stop:set()
  local _ <close> = setmetatable({}, { __close = function()
    self:cancel()
  end })
  if self.keeper and core.may_wait() then
    concur.shield(self.join, self)
  end
end

function Handlers:cancel()
  if self.group then
    self.group:cancel()
  end
end

function Handlers:join()
  if not concur.move_on_after(self.grace, self.wait_below, self, 1) then
    self:cancel()
  end
  concur.wait { self.keeper }
  for stream in pairs(self.streams) do -- of tasks that could not even begin
    stream:close(0)
  end
end

local function report(err, stream, traceback)
  local what = stream and "error in a connection's handler" or "error of a server's accept"
  core.report(err, what, traceback)
end

-- What is told of errors: an error in telling is reported, it ends nothing either.
local function reporter(on_error)
  if not on_error then
    return report
  end
  return function(err, stream)
    local ok, second = concur.xpcall(on_error, core.traceback_handler, err, stream)
    if not ok then
      core.report(second, "error in a server's on_error", core.first_traceback(second))
    end
  end
end

local function is_closed(err)
  return err.kind == "Closed"
end

-- A stream that no handlers have yet: closed when memory is too short even to call them.
local Fresh = {
  __close = function(self)
    if self.stream then
      self.stream:close(0)
    end
  end,
}

-- Accepts until the listener is closed. While descriptors are used up, connections stay in the
-- system's queue, and it tries again when one was closed here, or after a while.
local function accept_loop(handler, listener, handlers, options)
  local limit, on_error = options.limit or math.huge, reporter(options.on_error)
  local delay = RETRY_FIRST
  local fresh <close> = setmetatable({ stream = false }, Fresh)
  while true do
    handlers:wait_below(limit)
    if listener:closed() then -- by a handler, perhaps
      return true
    end
    local stream, err = listener:accept()
    fresh.stream = stream or false -- needs no memory: the field is there
    if stream then
      handlers:add(stream)
      fresh.stream = false
      handlers:spawn(handler, stream, on_error)
      delay = RETRY_FIRST
    elseif is_closed(err) then
      return true
    else
      if delay == RETRY_FIRST then
        on_error(err)
      end
      handlers.changed:clear()
      concur.move_on_after(delay, handlers.changed.wait, handlers.changed)
      delay = math.min(delay * 2, RETRY_MOST)
    end
  end
end

-- Accepts and serves until the listener is closed, which it does when this task is cancelled. Returns
-- true. `options` are those of concur.net.serve, checked.
function M.serve(handler, listener, options)
  local handlers <close> = Handlers.new(options)
  local _ <close> = listener -- before the handlers have their grace time: nobody connects any more
  handlers:begin(listener)
  if options.on_listen then
    options.on_listen(listener)
  end
  local ended = accept_loop(handler, listener, handlers, options)
  handlers:check()
  return ended
end

return M
