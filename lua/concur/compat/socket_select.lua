-- SPDX-License-Identifier: MIT
--
-- LuaSocket's `select` for the objects of concur.compat.socket, and for others with `getfd`.

local common = require "concur.compat.socket_common"
local concur = require "concur"
local core = require "concur.core"
local net = require "concur.net"

-- The descriptor, or nil: LuaSocket ignores objects that have none.
local function descriptor(object)
  local fd = object.getfd and math.tointeger(object:getfd())
  return fd and fd >= 0 and fd or nil
end

-- Whether the object can be read or written ("r", "w") right now.
local function is_ready(object, mode)
  if object.connecting then
    return mode == "w" and object.connecting:done()
  elseif mode == "r" and object.dirty and object:dirty() then
    return true
  end
  local fd = descriptor(object)
  return fd ~= nil and core.socket_ready(fd, mode)
end

-- Waits until it may be; nil and an error when that cannot be waited for.
local function await(object, mode)
  if object.connecting then
    if mode == "w" then
      concur.wait { object.connecting }
    else
      concur.sleep_forever()
    end
  elseif not descriptor(object) then -- closed, or made without one: it never will be
    concur.sleep_forever()
  elseif mode == "r" and object.stream then
    return object:await_readable()
  else
    return net.wait_fd(object, mode)
  end
  return true
end

local function collect(objects, mode)
  local ready = {}
  for _, object in ipairs(objects) do
    if is_ready(object, mode) then
      ready[#ready + 1] = object
      ready[object] = #ready + 0.0
    end
  end
  return ready
end

-- Waits for the first of all that are waited for; returns the error if one cannot be waited for.
local function await_any(readers, writers)
  local failure
  concur.task_group(function(group)
    local function watch(object, mode)
      local ok, err = await(object, mode)
      if not ok and err ~= "closed" then -- the end is something to read
        failure = failure or err
      end
      group:cancel()
    end
    for _, object in ipairs(readers) do
      group:spawn(watch, object, "r")
    end
    for _, object in ipairs(writers) do
      group:spawn(watch, object, "w")
    end
    concur.sleep_forever()
  end)
  return failure
end

local function check_list(list, argument)
  if list ~= nil and type(list) ~= "table" then
    common.argument_error(argument, "select", "table expected, got " .. type(list))
  end
  return list or {}
end

-- `socket.select(recvt, sendt, timeout)`: lists of the objects that can be read and written, each of
-- them also by the objects; and "timeout" if there is none.
return function(readers, writers, timeout)
  readers, writers = check_list(readers, 1), check_list(writers, 2)
  timeout = timeout and common.check_number(timeout, 3, "select")
  concur.checkpoint()
  local can_read, can_write = collect(readers, "r"), collect(writers, "w")
  local failure
  if #can_read == 0 and #can_write == 0 and timeout ~= 0 then
    if timeout and timeout > 0 then
      local _
      _, failure = concur.move_on_after(timeout, await_any, readers, writers)
    else
      failure = await_any(readers, writers)
    end
    can_read, can_write = collect(readers, "r"), collect(writers, "w")
  end
  if #can_read == 0 and #can_write == 0 and failure then
    error("select failed: " .. tostring(failure), 2) -- LuaSocket's raises, too
  elseif #can_read == 0 and #can_write == 0 then
    return can_read, can_write, "timeout"
  end
  return can_read, can_write, nil
end
