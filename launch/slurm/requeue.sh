# shellcheck shell=bash
# Sourced by the scripts of this folder. `wait_or_requeue PID` ends the job with the status of a process. A SIGTERM, which comes before
# the time limit and when the job is preempted, is handed on to it; if it ends by that it has saved, and the job goes back into the queue.
wait_or_requeue() {
  local work=$1 stopped=0 status=0
  trap 'stopped=1; kill -TERM "$work"' TERM
  wait "$work" || status=$?
  # The wait above ends with the signal; this one with the process.
  if kill -0 "$work" 2>/dev/null; then status=0; wait "$work" || status=$?; fi
  if [ "$stopped" = 1 ] && [ "$status" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$status"
}
